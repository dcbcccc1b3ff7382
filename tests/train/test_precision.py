"""bfloat16 products train as float32 ones do: 50 steps of every stage from the same seed, on the same batches."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from tests.train import six_stages

STEPS = 50
# Largest difference of the two loss curves, smoothed over five steps, over the range of the float32 one: twice what was
# measured (on a CPU with AMX). The semantic encoder draws its targets: a rounding that turns one draw changes what it learns.
BOUNDS = {"autoencoder": 0.04, "mulan": 0.1, "semantic": 0.35, "lm": 0.001, "dpd": 0.005}


def in_dtype(stage, dtype):
    """The stage computing in `dtype`; parameters, optimiser and averages stay float32."""
    config = dataclasses.replace(stage.config, dtype=dtype)
    if stage.name == "semantic":
        config = dataclasses.replace(config, conformer=dataclasses.replace(config.conformer, dtype=dtype))
    return dataclasses.replace(stage, config=config)


def losses(stage):
    batches = six_stages.make_batches(stage)
    state = nn.unbox(jax.jit(stage.init)(jax.random.PRNGKey(0)))
    if stage.name == "dpd":
        state = jax.tree.map(jax.numpy.asarray, stage.calibrate(state, iter(lambda: next(batches), None)))
    step, curve = jax.jit(stage.train_step), []
    for _ in range(STEPS):
        state, metrics = step(state, next(batches))
        curve.append(float(metrics["loss"]))
    wrong = [leaf.dtype for leaf in jax.tree.leaves(state.params) if leaf.dtype != np.float32]
    assert not wrong, "parameters are float32 in both"
    return np.array(curve)


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_loss_curves_agree(name, tmp_path):
    six_stages.save_parents(tmp_path)
    stage = six_stages.make_stage(name, tmp_path)
    exact, rounded = (losses(in_dtype(stage, dtype)) for dtype in ("float32", "bfloat16"))
    assert np.any(exact != rounded), "the dtype changed nothing"
    smooth = [np.convolve(curve, np.ones(5) / 5, "valid") for curve in (exact, rounded)]
    difference = np.max(np.abs(smooth[0] - smooth[1])) / np.ptp(smooth[0])
    print(f"{name}: {exact[0]:.4f} -> {exact[-5:].mean():.4f}, bfloat16 {rounded[-5:].mean():.4f}, {difference:.4f}")
    assert difference <= BOUNDS[name]
