"""The sampler with denoisers that are known exactly."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.dpd import angles as process
from melody_jax.dpd.denoiser import bounded
from melody_jax.dpd.sampler import sample

MEAN, DEVIATION = 0.4, 0.3


def _gaussian(noisy, angles, keep=None):
    """E[v | z_delta] for data N(MEAN, DEVIATION^2), the optimal denoiser."""
    cos, sin = jnp.cos(angles)[..., None], jnp.sin(angles)[..., None]
    gain = cos * DEVIATION**2 / (jnp.square(cos) * DEVIATION**2 + jnp.square(sin))
    clean = MEAN + gain * (noisy - cos * MEAN)
    return process.velocity_from_clean(noisy, clean, angles)


@pytest.mark.parametrize("schedule", process.SCHEDULES)
def test_recovers_mean_and_variance_of_gaussian_data(schedule):
    noise = jax.random.normal(jax.random.key(0), (4, 2000, 2))
    z = sample(_gaussian, noise, process.schedule(schedule, 200))
    assert float(z.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(z.std()) == pytest.approx(DEVIATION, rel=0.05)
    np.testing.assert_allclose(z, MEAN + DEVIATION * noise, atol=0.08)  # the flow of a Gaussian is linear


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_one_step_at_a_time_is_the_ddim_equation(steps):
    """Against the loop in NumPy, with a denoiser that is no optimum of anything."""
    noise = jax.random.normal(jax.random.key(1), (1, 3, 2))
    sizes = process.schedule("linear", steps)

    def denoise(z, angles):
        return 0.3 * z + jnp.sin(angles)[..., None]

    z, delta = np.asarray(noise, np.float64), math.pi / 2
    for omega in sizes:
        z = math.cos(omega) * z - math.sin(omega) * (0.3 * z + math.sin(delta))
        delta -= omega
    np.testing.assert_allclose(sample(denoise, noise, sizes), z, atol=1e-5)


def test_a_perfect_denoiser_needs_one_step():
    target = jax.random.uniform(jax.random.key(2), (2, 6, 3), minval=-1.0)
    noise = jax.random.normal(jax.random.key(3), target.shape)
    for steps in (1, 7):
        z = sample(lambda z, a: process.velocity_from_clean(z, target, a), noise, process.schedule("uniform", steps))
        np.testing.assert_allclose(z, target, atol=1e-5)


def test_known_frames_are_kept_and_seen_clean():
    known = jax.random.uniform(jax.random.key(4), (2, 8, 3), minval=-1.0)
    noise = jax.random.normal(jax.random.key(5), known.shape)
    mask = jnp.array([[True] * 3 + [False] * 5, [False, True] * 4])

    def denoise(z, angles, keep=None):
        jax.debug.callback(_check, z, angles)
        return 0.5 * z

    def _check(z, angles):
        np.testing.assert_array_equal(angles[mask], 0)
        np.testing.assert_allclose(z[mask], known[mask] / 0.3, rtol=1e-5)
        assert np.all(angles[~mask] > 0)

    z = sample(bounded(denoise, 1 / 0.3), noise, process.schedule("linear", 5), known, mask, data_std=0.3)
    jax.effects_barrier()
    np.testing.assert_array_equal(z[mask], known[mask])
    assert bool(jnp.all(jnp.isfinite(z))) and not np.allclose(z, known)


def test_unknown_frames_of_known_are_not_read():
    noise = jax.random.normal(jax.random.key(6), (1, 4, 2))
    mask = jnp.array([[True, False, False, True]])
    known = jnp.where(mask[..., None], 0.2, jnp.nan) * jnp.ones((1, 4, 2))
    assert bool(jnp.all(jnp.isfinite(sample(_gaussian, noise, process.schedule("linear", 4), known, mask))))


def test_clipping_bounds_the_result_in_the_latents_own_units():
    noise = 5 * jax.random.normal(jax.random.key(7), (1, 50, 2))
    sizes = process.schedule("linear", 10)
    denoise = lambda z, a, keep=None: -0.2 * z  # noqa: E731
    free = sample(denoise, noise, sizes, data_std=0.3)
    clipped = sample(bounded(denoise, 1 / 0.3), noise, sizes, data_std=0.3)
    assert float(jnp.abs(free).max()) > 1.5
    assert float(jnp.abs(clipped).max()) <= 1 + 1e-5
    inside = 0.1 * noise
    loose = sample(bounded(_gaussian, 10.0), inside, sizes)
    np.testing.assert_allclose(loose, sample(_gaussian, inside, sizes), atol=1e-4)
