"""The multi-chunk loss, the error on the grid and guidance, with denoisers that are functions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.dpd import loss, wiener
from melody_jax.dpd.denoiser import bind, guide, unconditional


def test_loss_of_no_prediction_is_the_velocity_power():
    """E v^2 = 1 for white data of unit variance, whatever the angle; the network sees one angle per chunk."""
    seen = {}

    def denoise(noisy, angles, keep):
        seen.update(angles=angles, keep=keep)
        return jnp.zeros_like(noisy)

    clean = jax.random.normal(jax.random.key(0), (400, 10, 3))
    value = loss.velocity_loss(denoise, clean, jax.random.key(1), 4, 0.1)
    assert float(value) == pytest.approx(1.0, abs=0.05)
    angles = np.asarray(seen["angles"])
    assert np.all(angles[:, 2:5] == angles[:, 2:3]) and not np.any(angles[:, 1] == angles[:, 2])
    assert 1 - float(jnp.mean(seen["keep"])) == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_condition_dropout_extremes(dropout):
    def denoise(noisy, angles, keep):
        assert bool(jnp.all(keep)) == (dropout == 0) and bool(jnp.any(keep)) == (dropout == 0)
        return noisy

    loss.velocity_loss(denoise, jnp.zeros((50, 4, 1)), jax.random.key(0), 2, dropout)


def test_loss_vanishes_for_an_oracle():
    """For clean = 0 the noisy latents are sin(delta) epsilon, so the velocity is cos(delta) noisy / sin(delta)."""

    def denoise(noisy, angles, keep):
        return (jnp.cos(angles) / jnp.sin(angles))[..., None] * noisy

    assert float(loss.velocity_loss(denoise, jnp.zeros((4, 8, 2)), jax.random.key(2), 4, 0.0)) < 1e-4


def test_grid():
    np.testing.assert_allclose(loss.angle_grid(4), np.array([1, 3, 5, 7]) * math.pi / 16)


def test_grid_errors_of_the_wiener_predictor_are_the_closed_form():
    deviations = jnp.array([[[0.3, 1.5]]])
    clean = deviations * jax.random.normal(jax.random.key(0), (40, 200, 2))
    grid = loss.angle_grid(8)

    def denoise(noisy, angles):
        cos, sin = jnp.cos(angles)[..., None], jnp.sin(angles)[..., None]
        power = jnp.square(deviations)
        return sin * cos * (1 - power) / (jnp.square(cos) * power + jnp.square(sin)) * noisy

    errors = loss.grid_errors(denoise, clean, jax.random.key(1), grid)
    closed = wiener.velocity_error(jnp.square(deviations)[0, 0], jnp.asarray(grid, jnp.float32))
    np.testing.assert_allclose(errors, closed.mean(1), rtol=0.05)
    np.testing.assert_array_equal(errors, loss.grid_errors(denoise, clean, jax.random.key(1), grid))


def _network(noisy, angles, tokens, keep=None, prompt=None):
    """A stand-in that shows which clip got which condition."""
    weight = jnp.ones(tokens.shape[0]) if keep is None else keep.astype(jnp.float32)
    mean = jnp.mean(tokens.astype(jnp.float32), axis=1)
    mean = mean if prompt is None else mean + prompt[:, 0].astype(jnp.float32)
    return noisy * angles[..., None] + (weight * mean)[:, None, None]


@pytest.mark.parametrize("prompt", [None, jnp.array([[7], [9]])])
@pytest.mark.parametrize("scale", [1.0, 0.0, 2.5])
def test_guidance(scale, prompt):
    noisy = jax.random.normal(jax.random.key(0), (2, 5, 3))
    angles = jnp.full((2, 5), 0.7)
    tokens = jnp.array([[1, 2], [4, 6]])
    conditional = _network(noisy, angles, tokens, None, prompt)
    dropped = _network(noisy, angles, tokens, jnp.zeros(2, bool), prompt)
    expected = scale * conditional + (1 - scale) * dropped
    denoise = bind(_network, tokens, prompt)
    np.testing.assert_array_equal(unconditional(denoise)(noisy, angles), dropped)
    batched = guide(denoise, scale)
    np.testing.assert_allclose(batched(noisy, angles), expected, atol=1e-5)
    np.testing.assert_allclose(guide(unconditional(denoise), scale)(noisy, angles), dropped, atol=1e-5)
    if scale == 1:
        np.testing.assert_array_equal(batched(noisy, angles), conditional)
