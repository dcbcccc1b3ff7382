"""The linear predictor around the network: least squares, unit variances, what tokens of several levels say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.dpd import DPD, angles, model_of, wiener
from melody_jax.dpd.precondition import LinearPredictor, measure
from melody_jax.errors import UserError
from melody_jax.nn.measured import MEASURED
from tests.dpd.test_network import GEOMETRY, TINY, _inputs

CHANNELS, SCALE = 3, 0.2
CONFIG = dataclasses.replace(TINY, precondition="linear", data_std=SCALE)


def _latents(seed, batch=64, frames=400):
    """Three channels of first-order autoregressions, mixed, with a mean: 0.2 times order one."""
    rng = np.random.default_rng(seed)
    innovations = rng.normal(size=(frames, batch, CHANNELS))
    states = [innovations[0]]
    decay = np.array([0.95, 0.7, 0.0])
    for row in innovations[1:]:
        states.append(decay * states[-1] + np.sqrt(1 - decay**2) * row)
    mixing = np.array([[1.0, 0.5, 0.0], [0.3, 1.0, 0.2], [0.0, 0.1, 0.8]])
    return (SCALE * (np.stack(states, axis=1) @ mixing + [0.5, 0.0, -1.0])).astype(np.float32)


CODES, RATE = GEOMETRY.semantic_codes, GEOMETRY.frames_per_token
TOKENS = np.zeros((64, 200), np.int32)  # all alike: they say nothing


def _predictor(levels=1):
    return LinearPredictor(levels * CODES, levels, RATE)


@pytest.fixture(scope="module")
def measured():
    return jax.tree.map(jnp.asarray, measure(_latents(0) / SCALE, TOKENS, CODES))


@pytest.mark.parametrize("told", ["", "told_"])
def test_what_is_measured_are_the_moments_of_the_latents(measured, told):
    rows = _latents(0).reshape(-1, CHANNELS) / SCALE
    axes = measured[told + "axes"]
    covariance = axes @ np.diag(measured[told + "variance"]) @ axes.T
    np.testing.assert_allclose(covariance, np.cov(rows.T), atol=0.03)
    np.testing.assert_allclose(measured["mean"], rows.mean(0), atol=0.02)
    np.testing.assert_allclose(axes @ axes.T, np.eye(CHANNELS), atol=1e-5)
    assert np.all(np.diff(measured[told + "variance"]) <= 0)


def _spoken(seed, levels):
    """Latents that are a table's rows of their tokens, plus rows of another for the clip's tokens, plus noise."""
    own, clip = np.random.default_rng(99).normal(size=(2, levels * CODES, CHANNELS))
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(CODES), size=200)
    codes = np.stack([rng.choice(CODES, (40, levels), p=share) for share in shares]).astype(np.int32)
    moments = codes + np.arange(levels, dtype=np.int32) * CODES
    rows = own[moments].sum(2) + clip[moments].sum(2).mean(1, keepdims=True)
    tokens = moments.reshape(200, -1)
    latents = np.repeat(rows, RATE, axis=1) + 0.3 * rng.normal(size=(200, 40 * RATE, CHANNELS)) + [0.5, 0.0, -1.0]
    return latents.astype(np.float32), tokens


@pytest.mark.parametrize("levels", [1, 2])
def test_tokens_say_what_they_can(levels):
    """With the tables of training clips, the noise alone is left of other clips; dropped conditions say nothing."""
    found = jax.tree.map(jnp.asarray, measure(*_spoken(0, levels), levels * CODES, levels))
    clean, tokens = _spoken(1, levels)
    noise = np.random.default_rng(2).normal(size=clean.shape).astype(np.float32)
    delta = 1.5
    noisy, velocity = np.cos(delta) * clean + np.sin(delta) * noise, np.cos(delta) * noise - np.sin(delta) * clean
    grid = jnp.full(clean.shape[:2], delta)

    def error(keep):
        inputs = (jnp.asarray(noisy), grid, jnp.asarray(tokens), keep)
        seen, complete = _predictor(levels).apply({MEASURED: found}, *inputs)
        left = np.asarray(complete(jnp.zeros_like(seen))) - velocity
        return np.mean(left**2), np.asarray(seen).var()

    told, told_input = error(None)
    assert 0.08 < told < 0.12 and abs(told_input - 1) < 0.1  # 0.3 squared is the noise
    kept, _ = error(jnp.ones(len(clean), bool))
    np.testing.assert_allclose(kept, told, rtol=1e-4)
    untold, untold_input = error(jnp.zeros(len(clean), bool))
    assert untold > 5 * told and abs(untold_input - 1) < 0.1


@pytest.mark.parametrize("delta", [0.1, 0.6, 1.1])
def test_an_idle_network_is_the_least_squares_predictor(measured, delta):
    """Beside a regression of v on z_delta, fitted by NumPy to these very patches; and better than one per channel."""
    clean = _latents(1) / SCALE
    noise = np.random.default_rng(2).normal(size=clean.shape).astype(np.float32)
    noisy, velocity = np.cos(delta) * clean + np.sin(delta) * noise, np.cos(delta) * noise - np.sin(delta) * clean
    grid = jnp.full(clean.shape[:2], delta)
    seen, complete = _predictor().apply({MEASURED: measured}, jnp.asarray(noisy), grid, jnp.asarray(TOKENS))
    error = np.mean((np.asarray(complete(jnp.zeros_like(seen))) - velocity) ** 2)
    rows = np.concatenate([noisy.reshape(-1, noisy.shape[-1]), np.ones((noisy[..., 0].size, 1))], axis=1)
    fitted = np.linalg.lstsq(rows, velocity.reshape(len(rows), -1), rcond=None)[0]
    best = np.mean((rows @ fitted - velocity.reshape(len(rows), -1)) ** 2)
    assert best <= error <= 1.02 * best
    per_channel = wiener.velocity_error(jnp.asarray(clean.var((0, 1))), jnp.array([delta]))
    assert error < 0.99 * float(jnp.mean(per_channel))
    np.testing.assert_allclose(np.asarray(seen).var((0, 1)), 1.0, atol=0.1)
    # what is left, seen along the axes, is what the network predicts in units of its deviation
    total = np.cos(delta) ** 2 * measured["variance"] + np.sin(delta) ** 2
    left = (velocity - np.asarray(complete(jnp.zeros_like(seen)))) @ measured["axes"]
    np.testing.assert_allclose(left.var((0, 1)), measured["variance"] / total, rtol=0.1)


def test_unit_moments_change_nothing():
    plain = dataclasses.replace(CONFIG, precondition="none")
    inputs = _inputs(frames=24)
    variables = nn.unbox(jax.jit(model_of(CONFIG, GEOMETRY).init)(jax.random.key(1), *inputs))
    kernel = jax.random.normal(jax.random.key(2), variables["params"]["out"]["kernel"].shape)
    variables = {**variables, "params": {**variables["params"], "out": {"kernel": kernel}}}
    without = {"params": variables["params"]}
    ours = jax.jit(model_of(CONFIG, GEOMETRY).apply)(variables, *inputs)
    theirs = jax.jit(DPD(plain, GEOMETRY).apply)(without, *inputs)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_sampling_with_an_idle_network_has_the_moments_of_the_latents(measured):
    """Noise through the linear predictor alone: the covariance of its channels, without any training."""
    from melody_jax.dpd import sampler

    def denoise(noisy, deltas):
        seen, complete = _predictor().apply({MEASURED: measured}, noisy, deltas, jnp.asarray(TOKENS))
        return complete(jnp.zeros_like(seen))

    noise = jax.random.normal(jax.random.key(0), (64, 400, CHANNELS))
    made = jax.jit(lambda x: sampler.sample(denoise, x, angles.schedule("uniform", 50), data_std=SCALE))(noise)
    theirs, ours = (np.cov(x.reshape(-1, CHANNELS).T / SCALE) for x in (_latents(3), np.asarray(made)))
    assert np.abs(ours - theirs).max() < 0.1 * np.abs(theirs).max()


def test_an_unknown_precondition_is_refused():
    with pytest.raises(UserError, match="precondition 'affine'"):
        dataclasses.replace(TINY, precondition="affine")
