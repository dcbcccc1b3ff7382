"""A step that was compiled before is loaded instead of compiled, and only where it is the same step."""

import dataclasses
import importlib.util
import json
import logging

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from melody_jax import precompiled
from melody_jax.parallel.mesh import make_mesh
from melody_jax.train.arrays import ArrayBatches
from melody_jax.train.start import initial_state
from melody_jax.train.steps import Steps
from tests.train import regression

STAGE = regression.RegressionStage()


@pytest.fixture(autouse=True)
def compiled_anew():
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # whether it is used is asked once
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_exec_time_optimization_effort", 0.0)
    compilation_cache.reset_cache()


def _steps(folder, **changes):
    stage, mesh = dataclasses.replace(STAGE, **changes), make_mesh("data=1", jax.devices()[:1])
    return Steps(stage, mesh, initial_state(stage, 0, mesh), str(folder)), ArrayBatches(regression.examples(), 8)


def _saved(folder):
    """Compiles the step once, writes it, and returns its path."""
    steps, batches = _steps("")
    placed = steps._place(next(batches))
    lowered = precompiled.lower(steps._train_step(placed), steps.state, placed)
    return precompiled.save(folder, precompiled.key_of(lowered.as_text(), jax.devices()[:1]), lowered.compile())


def _losses(steps, batches):
    for _ in range(3):
        steps.dispatch(next(batches))
    return steps.take_means()["loss"]


def _count_compiles(monkeypatch):
    compiled = []
    whole = jax.stages.Lowered.compile
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *args: compiled.append(1) or whole(*args))
    return compiled


def test_the_saved_step_is_used_and_gives_the_same_numbers(tmp_path, monkeypatch):
    path = _saved(tmp_path)
    assert sorted(tmp_path.iterdir()) == [path.with_suffix(".json"), path]
    usual = _losses(*_steps(""))
    compiled = _count_compiles(monkeypatch)
    assert _losses(*_steps(tmp_path)) == usual
    assert not compiled


def test_it_may_lie_in_a_bucket(gcs_folder, monkeypatch):
    assert _saved(gcs_folder).is_file()
    compiled = _count_compiles(monkeypatch)
    _losses(*_steps(gcs_folder))
    assert not compiled


def test_another_step_is_compiled(tmp_path, monkeypatch, caplog):
    _saved(tmp_path)
    faster = dataclasses.replace(STAGE.optim, learning_rate=0.7 * STAGE.optim.learning_rate)
    usual = _losses(*_steps("", optim=faster))
    compiled = _count_compiles(monkeypatch)
    np.testing.assert_allclose(_losses(*_steps(tmp_path, optim=faster)), usual, rtol=1e-6)
    assert len(compiled) == 1
    assert f"no executable of this step in {tmp_path}: of 1 the nearest was compiled for another program" in caplog.text


def test_a_step_compiled_with_less_effort_is_not_used(tmp_path, monkeypatch):
    jax.config.update("jax_exec_time_optimization_effort", -1.0)
    _saved(tmp_path)
    jax.config.update("jax_exec_time_optimization_effort", 0.0)
    compiled = _count_compiles(monkeypatch)
    _losses(*_steps(tmp_path))
    assert len(compiled) == 1


KERNEL = """
import jax
from jax.experimental import pallas as pl

def double(x_ref, o_ref):
    o_ref[...] = 2 * x_ref[...]

def program(x):
    return pl.pallas_call(double, out_shape=jax.ShapeDtypeStruct((8, 128), "float32"))(x)
"""


class ForTPU:
    """A jitted program that is lowered for a TPU, which no TPU is needed for."""

    def __init__(self, program):
        self._traced = jax.jit(program).trace(jax.ShapeDtypeStruct((8, 128), np.float32))

    def lower(self):
        return self._traced.lower(lowering_platforms=("tpu",))


def _key_in(folder, text=KERNEL, line=""):
    """The key of the kernel whose source lies in the folder, after other lines."""
    folder.mkdir()
    (folder / "kernel.py").write_text(line + text)
    spec = importlib.util.spec_from_file_location("kernel", folder / "kernel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return precompiled.key_of(precompiled.lower(ForTPU(module.program)).as_text(), jax.devices()[:1])


def test_a_kernel_s_key_does_not_tell_where_its_source_lies(tmp_path, monkeypatch):
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    here = _key_in(tmp_path / "here")
    assert _key_in(tmp_path / "there", line="\n\n") == here
    other = _key_in(tmp_path / "other", KERNEL.replace("2 *", "3 *"))
    assert {name for name in here if here[name] != other[name]} == {"program"}
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_jf_dump_to=/somewhere")
    assert _key_in(tmp_path / "dumped") == here
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_other=true")
    assert _key_in(tmp_path / "flags")["LIBTPU_INIT_ARGS"] == "--xla_tpu_other=true"


def test_a_miss_says_what_differs(tmp_path, caplog):
    steps, batches = _steps("")
    placed = steps._place(next(batches))
    key = precompiled.key_of(
        precompiled.lower(steps._train_step(placed), steps.state, placed).as_text(), jax.devices()[:1]
    )
    assert precompiled.load(tmp_path, key, jax.devices()[:1]) is None
    assert "there is none at all" in caplog.text
    other = {**key, "compiler": "jax 0.1", "chips": "256 x TPU v5e"}
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert precompiled.load(tmp_path, key, jax.devices()[:1]) is None
    assert (
        "of 1 the nearest was compiled for chips '256 x TPU v5e', here '1 x cpu' and compiler 'jax 0.1'" in caplog.text
    )


def test_a_damaged_file_is_reported_and_not_used(tmp_path, monkeypatch, caplog):
    path = _saved(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    compiled = _count_compiles(monkeypatch)
    with caplog.at_level(logging.WARNING):
        _losses(*_steps(tmp_path))
    assert len(compiled) == 1 and f"{path} cannot be loaded" in caplog.text
