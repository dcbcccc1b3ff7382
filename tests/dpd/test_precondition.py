"""The linear predictor around the network: least squares, unit variances, patches from autocovariances."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.dpd import DPD, angles, wiener
from melody_jax.dpd.precondition import LinearPredictor, measure
from melody_jax.errors import UserError
from tests.dpd.test_network import GEOMETRY, TINY, _inputs

CHANNELS, PATCH, SCALE = 3, 4, 0.2
CONFIG = dataclasses.replace(TINY, patch=PATCH, precondition="linear", data_std=SCALE)


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


def _predictor(rank=0):
    return LinearPredictor(CODES, RATE, PATCH, rank)


@pytest.fixture(scope="module")
def measured():
    return jax.tree.map(jnp.asarray, measure(_latents(0) / SCALE, TOKENS, CODES, PATCH))


def _patches(latents):
    return latents.reshape(len(latents), -1, PATCH * CHANNELS) / SCALE


@pytest.mark.parametrize("told", ["", "told_"])
def test_what_is_measured_are_the_moments_of_the_patches(measured, told):
    patches = _patches(_latents(0)).reshape(-1, PATCH * CHANNELS)
    axes = measured[told + "axes"]
    covariance = axes @ np.diag(measured[told + "variance"]) @ axes.T
    np.testing.assert_allclose(covariance, np.cov(patches.T), atol=0.03)
    np.testing.assert_allclose(np.tile(measured["mean"], PATCH), patches.mean(0), atol=0.02)
    np.testing.assert_allclose(axes @ axes.T, np.eye(PATCH * CHANNELS), atol=1e-5)


def _spoken(seed):
    """Latents that are a table's row of their token, plus a row of another for the clip's tokens, plus noise."""
    own, clip = np.random.default_rng(99).normal(size=(2, CODES, CHANNELS))
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(CODES), size=200)
    tokens = np.stack([rng.choice(CODES, 40, p=share) for share in shares]).astype(np.int32)
    rows = own[tokens] + clip[tokens].mean(1, keepdims=True)
    latents = np.repeat(rows, RATE, axis=1) + 0.3 * rng.normal(size=(200, 40 * RATE, CHANNELS)) + [0.5, 0.0, -1.0]
    return latents.astype(np.float32), tokens


def test_tokens_say_what_they_can():
    """With the tables of training clips, the noise alone is left of other clips; dropped conditions say nothing."""
    found = jax.tree.map(jnp.asarray, measure(*_spoken(0), CODES, PATCH))
    latents, tokens = _spoken(1)
    clean = latents.reshape(len(latents), -1, PATCH * CHANNELS)
    noise = np.random.default_rng(2).normal(size=clean.shape).astype(np.float32)
    delta = 1.5
    noisy, velocity = np.cos(delta) * clean + np.sin(delta) * noise, np.cos(delta) * noise - np.sin(delta) * clean
    grid = jnp.full(clean.shape[:2], delta)

    def error(keep):
        inputs = (jnp.asarray(noisy), grid, jnp.asarray(tokens), keep)
        seen, complete = _predictor().apply({"params": found}, *inputs)
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
    clean = _patches(_latents(1))
    noise = np.random.default_rng(2).normal(size=clean.shape).astype(np.float32)
    noisy, velocity = np.cos(delta) * clean + np.sin(delta) * noise, np.cos(delta) * noise - np.sin(delta) * clean
    grid = jnp.full(clean.shape[:2], delta)
    seen, complete = _predictor().apply({"params": measured}, jnp.asarray(noisy), grid, jnp.asarray(TOKENS))
    error = np.mean((np.asarray(complete(jnp.zeros_like(seen))) - velocity) ** 2)
    rows = np.concatenate([noisy.reshape(-1, noisy.shape[-1]), np.ones((noisy[..., 0].size, 1))], axis=1)
    fitted = np.linalg.lstsq(rows, velocity.reshape(len(rows), -1), rcond=None)[0]
    best = np.mean((rows @ fitted - velocity.reshape(len(rows), -1)) ** 2)
    assert best <= error <= 1.02 * best
    per_channel = wiener.velocity_error(jnp.asarray(clean.var((0, 1))), jnp.array([delta]))
    assert error < 0.95 * float(jnp.mean(per_channel))
    np.testing.assert_allclose(np.asarray(seen).var((0, 1)), 1.0, atol=0.1)
    # what is left, seen along the axes, is what the network predicts in units of its deviation
    total = np.cos(delta) ** 2 * measured["variance"] + np.sin(delta) ** 2
    left = (velocity - np.asarray(complete(jnp.zeros_like(seen)))) @ measured["axes"]
    np.testing.assert_allclose(left.var((0, 1)), measured["variance"] / total, rtol=0.1)


def test_unit_moments_change_nothing():
    plain = dataclasses.replace(CONFIG, precondition="none")
    inputs = _inputs(frames=24)
    variables = nn.unbox(jax.jit(DPD(CONFIG, GEOMETRY).init)(jax.random.key(1), *inputs))
    kernel = jax.random.normal(jax.random.key(2), variables["params"]["out"]["kernel"].shape)
    variables = {"params": {**variables["params"], "out": {"kernel": kernel}}}
    without = {"params": {name: leaf for name, leaf in variables["params"].items() if name != "linear"}}
    ours = jax.jit(DPD(CONFIG, GEOMETRY).apply)(variables, *inputs)
    theirs = jax.jit(DPD(plain, GEOMETRY).apply)(without, *inputs)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 4, 21, 24])
def test_patches_of_any_length_give_a_velocity_per_frame(frames):
    inputs = _inputs(frames=frames)
    config = dataclasses.replace(CONFIG, precondition="none")
    variables = nn.unbox(jax.jit(DPD(config, GEOMETRY).init)(jax.random.key(1), *inputs))
    velocity = jax.jit(DPD(config, GEOMETRY).apply)(variables, *inputs)
    assert velocity.shape == inputs[0].shape and bool(jnp.all(jnp.isfinite(velocity)))
    # every frame of a patch has its own say
    changed = inputs[0].at[:, -1].add(1.0)
    other = jax.jit(DPD(config, GEOMETRY).apply)(variables, changed, *inputs[1:])
    assert bool(jnp.any(jnp.abs(other[:, -1] - velocity[:, -1]) > 1e-4))


def test_a_patch_of_one_frame_is_the_published_network():
    inputs = _inputs()
    published = jax.eval_shape(DPD(TINY, GEOMETRY).init, jax.random.key(1), *inputs)
    shapes = {leaf.shape for leaf in jax.tree.leaves(published["params"]["in"])}
    assert shapes == {(GEOMETRY.latent_channels, TINY.width)}
    assert "linear" not in published["params"]


def test_sampling_with_an_idle_network_has_the_moments_of_the_latents(measured):
    """Noise through the linear predictor alone: music's covariance over time and channels, without any training."""
    from melody_jax.dpd import sampler

    def denoise(noisy, deltas):
        rows = noisy.reshape(noisy.shape[0], -1, PATCH * CHANNELS)
        seen, complete = _predictor().apply({"params": measured}, rows, deltas[:, ::PATCH], jnp.asarray(TOKENS))
        return complete(jnp.zeros_like(seen)).reshape(noisy.shape)

    noise = jax.random.normal(jax.random.key(0), (64, 400, CHANNELS))
    made = jax.jit(lambda x: sampler.sample(denoise, x, angles.schedule("uniform", 50), data_std=SCALE))(noise)
    theirs, ours = (np.cov(_patches(x).reshape(-1, PATCH * CHANNELS).T) for x in (_latents(3), np.asarray(made)))
    assert np.abs(ours - theirs).max() < 0.1 * np.abs(theirs).max()


def test_envelopes_come_first_and_by_falling_variance():
    moved = measure(_latents(0) / SCALE, TOKENS, CODES, PATCH, envelope_channels=2)
    channels = np.tile(np.arange(CHANNELS), PATCH)
    assert np.all(moved["axes"][channels == 2, : 2 * PATCH] == 0) and np.all(
        moved["axes"][channels < 2, 2 * PATCH :] == 0
    )
    for part in (moved["variance"][: 2 * PATCH], moved["variance"][2 * PATCH :]):
        assert np.all(np.diff(part) <= 0)
    np.testing.assert_allclose(moved["axes"].T @ moved["axes"], np.eye(PATCH * CHANNELS), atol=1e-5)


def test_beyond_the_rank_the_linear_predictor_stands_alone(measured):
    rank = 5
    inputs = _inputs(frames=24)
    module = DPD(dataclasses.replace(CONFIG, rank=rank), GEOMETRY)
    variables = nn.unbox(jax.jit(module.init)(jax.random.key(1), *inputs))
    params = {**variables["params"], "linear": jax.tree.map(jnp.asarray, dict(measured))}
    assert params["in"]["kernel"].shape[0] == params["out"]["kernel"].shape[1] == rank
    idle = jax.jit(module.apply)({"params": params}, *inputs)  # the last map starts at zero
    kernel = jax.random.normal(jax.random.key(2), params["out"]["kernel"].shape)
    awake = jax.jit(module.apply)({"params": params | {"out": {"kernel": kernel}}}, *inputs)
    change = (awake - idle).reshape(2, -1, PATCH * CHANNELS) @ params["linear"]["told_axes"]
    assert float(jnp.abs(change[..., :rank]).min(axis=(0, 1)).max()) > 1e-3
    np.testing.assert_allclose(change[..., rank:], 0.0, atol=1e-4)


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="rank 3 asks for"):
        dataclasses.replace(TINY, rank=3)
    with pytest.raises(UserError, match="patch must be at least 1"):
        dataclasses.replace(TINY, patch=0)
    with pytest.raises(UserError, match="precondition 'affine'"):
        dataclasses.replace(TINY, precondition="affine")
