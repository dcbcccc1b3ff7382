"""bfloat16 products train as float32 ones do: 50 steps of every stage from the same seed, on the same batches."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from tests.train import six_stages

STEPS = 50
# Largest difference of the two loss curves, smoothed over five steps, over the range of the float32 one: twice what was
# measured (on a CPU with AMX). The semantic encoder draws its targets: a rounding that turns one draw changes what it learns,
# by more on one CPU than on another. Its bound is half of what other draws do to the float32 curve.
BOUNDS = {"autoencoder": 0.04, "mulan": 0.1, "semantic": None, "lm": 0.001, "dpd": 0.005}


def in_dtype(stage, dtype):
    """The stage computing in `dtype`; parameters, optimiser and averages stay float32."""
    config = dataclasses.replace(stage.config, dtype=dtype)
    if stage.name == "semantic":
        config = dataclasses.replace(config, conformer=dataclasses.replace(config.conformer, dtype=dtype))
    return dataclasses.replace(stage, config=config)


def losses(stage, seed=0):
    """The smoothed curve; `seed` is of the draws, weights are always the same."""
    batches = six_stages.make_batches(stage)
    state = nn.unbox(jax.jit(stage.init)(jax.random.PRNGKey(0)))
    state = state.replace(key=jax.random.PRNGKey(seed)) if seed else state
    if stage.name == "dpd":
        state = jax.tree.map(jax.numpy.asarray, stage.calibrate(state, iter(lambda: next(batches), None)))
    step, curve = jax.jit(stage.train_step), []
    for _ in range(STEPS):
        state, metrics = step(state, next(batches))
        curve.append(float(metrics["loss"]))
    wrong = [leaf.dtype for leaf in jax.tree.leaves(state.params) if leaf.dtype != np.float32]
    assert not wrong, "parameters are float32 in both"
    return np.convolve(curve, np.ones(5) / 5, "valid")


def apart(curve, exact):
    return np.max(np.abs(curve - exact)) / np.ptp(exact)


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_loss_curves_agree(name, tmp_path):
    six_stages.save_parents(tmp_path)
    stage = six_stages.make_stage(name, tmp_path)
    single, half = in_dtype(stage, "float32"), in_dtype(stage, "bfloat16")
    exact, rounded = losses(single), losses(half)
    assert np.any(exact != rounded), "the dtype changed nothing"
    bound = BOUNDS[name] or 0.5 * apart(losses(single, seed=1), exact)
    print(
        f"{name}: {exact[0]:.4f} -> {exact[-1]:.4f}, bfloat16 {rounded[-1]:.4f}, {apart(rounded, exact):.4f} of {bound:.4f}"
    )
    assert apart(rounded, exact) <= bound
