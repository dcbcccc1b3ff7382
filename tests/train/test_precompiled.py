"""A step that was compiled before is loaded instead of compiled, and only where it is the same step."""

import dataclasses
import logging

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from melody_jax.parallel.mesh import make_mesh
from melody_jax.train import precompiled
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
    lowered = steps._train_step(placed).lower(steps.state, placed)
    path = precompiled.path_of(folder, lowered, jax.devices()[:1])
    precompiled.save(path, lowered.compile())
    return path


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
    assert [path] == list(tmp_path.iterdir())
    usual = _losses(*_steps(""))
    compiled = _count_compiles(monkeypatch)
    assert _losses(*_steps(tmp_path)) == usual
    assert not compiled


def test_another_step_is_compiled(tmp_path, monkeypatch):
    _saved(tmp_path)
    faster = dataclasses.replace(STAGE.optim, learning_rate=0.7 * STAGE.optim.learning_rate)
    usual = _losses(*_steps("", optim=faster))
    compiled = _count_compiles(monkeypatch)
    np.testing.assert_allclose(_losses(*_steps(tmp_path, optim=faster)), usual, rtol=1e-6)
    assert len(compiled) == 1


def test_a_step_compiled_with_less_effort_is_not_used(tmp_path, monkeypatch):
    jax.config.update("jax_exec_time_optimization_effort", -1.0)
    _saved(tmp_path)
    jax.config.update("jax_exec_time_optimization_effort", 0.0)
    compiled = _count_compiles(monkeypatch)
    _losses(*_steps(tmp_path))
    assert len(compiled) == 1


def test_a_damaged_file_is_reported_and_not_used(tmp_path, monkeypatch, caplog):
    path = _saved(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    compiled = _count_compiles(monkeypatch)
    with caplog.at_level(logging.WARNING):
        _losses(*_steps(tmp_path))
    assert len(compiled) == 1 and f"{path} cannot be loaded" in caplog.text
