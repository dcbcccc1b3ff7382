"""The closed form of the Wiener predictor against a least-squares fit."""

import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.dpd import wiener


@pytest.mark.parametrize("angle", [0.1, 0.7, 1.3, np.pi / 2])
def test_error_is_that_of_a_least_squares_fit(angle):
    rng = np.random.default_rng(0)
    deviations = np.array([0.05, 0.3, 1.0, 2.0])
    z = rng.laplace(size=(200_000, 4)) / np.sqrt(2) * deviations + 0.7  # neither Gaussian nor centred
    eps = rng.standard_normal(z.shape)
    noisy, v = np.cos(angle) * z + np.sin(angle) * eps, np.cos(angle) * eps - np.sin(angle) * z
    fitted = []
    for channel in range(4):
        design = np.stack([noisy[:, channel], np.ones(len(z))], axis=1)
        _, residual, _, _ = np.linalg.lstsq(design, v[:, channel], rcond=None)
        fitted.append(residual[0] / len(z))
    closed = wiener.velocity_error(jnp.asarray(deviations**2, jnp.float32), jnp.array([angle], jnp.float32))
    np.testing.assert_allclose(closed[0], fitted, rtol=0.03)


def test_batch_error_takes_the_batch_variance():
    z = jnp.asarray(np.random.default_rng(1).standard_normal((50, 40, 2)), jnp.float32)
    z = (z - z.mean((0, 1), keepdims=True)) / z.std((0, 1), keepdims=True)
    grid = jnp.array([0.3, 1.1])
    assert wiener.batch_error(z, grid) == pytest.approx(1.0, abs=1e-5)
    assert wiener.batch_error(0.3 * z, grid) < 1.0
