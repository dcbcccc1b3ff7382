"""Strictness for all tests: no silent dtype or rank promotion, 8 virtual devices, shapes checked at run time."""

import importlib.util
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests compile much and compute little: without XLA's costlier passes they take two thirds of the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook(["melody_jax"], "beartype.beartype")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# compiled programs survive from run to run, on a developer's machine as in CI
jax.config.update("jax_compilation_cache_dir", os.environ.get("MELODY_TEST_CACHE", ".cache/jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

PARITY = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
collect_ignore = [] if PARITY else ["parity"]


LONG = (
    "test_pod",
    "test_bucket",
    "test_resume_stages",
    "test_sharding",
    "test_readme",
    "test_interrupted",
    "test_resume",
    "test_train",
)
"""Files of few tests that take minutes: they begin, so that no process waits for another one at the end."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_report_header():
    return [] if PARITY else ["tests/parity is left out: the extra `parity` is not installed (make test-parity)"]


@pytest.fixture(scope="session")
def _gcs():
    if not importlib.util.find_spec("gcsfs"):
        pytest.skip("the extra `gcs` is not installed")
    from tests.gcs_server import Storage

    server = Storage()
    os.environ.update(server.environment)
    yield server
    server.close()


@pytest.fixture
def gcs(_gcs):
    """A Cloud Storage on loopback with one empty bucket, which this process and its children take for Google's."""
    _gcs.objects.clear()
    _gcs.log.clear()
    _gcs.latency, _gcs.together, _gcs.most_under_way, _gcs.refusal = 0.0, 0, 0, None
    return _gcs


@pytest.fixture
def gcs_folder(gcs):
    """A folder of that bucket."""
    from melody_jax import storage
    from tests.gcs_server import BUCKET

    return storage.path(f"gs://{BUCKET}/test")
