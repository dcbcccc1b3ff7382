"""Where compiled programs are kept."""

import jax
import pytest

from melody_jax.operations.cache import keep_programs

NAMES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def chosen():
    """What is in force, put back afterwards."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    yield before
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_users_cache_unless_another_is_chosen(chosen, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_programs()
    assert {name: getattr(jax.config, name) for name in NAMES} == chosen  # conftest.py chose one
    jax.config.update("jax_compilation_cache_dir", None)
    keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "melody_jax" / "xla")
    assert jax.config.jax_persistent_cache_min_compile_time_secs < 0.5
