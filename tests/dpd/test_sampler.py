"""The sampler with denoisers that are known exactly."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.dpd import angles as process
from melody_jax.dpd.sampler import sample, shifted

MEAN, DEVIATION = 0.4, 0.3


def _gaussian(noisy, angles):
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

    def denoise(z, angles):
        jax.debug.callback(_check, z, angles)
        return 0.5 * z

    def _check(z, angles):
        np.testing.assert_array_equal(angles[mask], 0)
        np.testing.assert_allclose(z[mask], known[mask] / 0.3, rtol=1e-5)
        assert np.all(angles[~mask] > 0)

    z = sample(denoise, noise, process.schedule("linear", 5), known, mask, clip=1.0, data_std=0.3)
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
    free = sample(lambda z, a: -0.2 * z, noise, sizes, data_std=0.3)
    clipped = sample(lambda z, a: -0.2 * z, noise, sizes, clip=1.0, data_std=0.3)
    assert float(jnp.abs(free).max()) > 1.5
    assert float(jnp.abs(clipped).max()) <= 1 + 1e-5
    inside = 0.1 * noise
    loose = sample(_gaussian, inside, sizes, clip=10.0)
    np.testing.assert_allclose(loose, sample(_gaussian, inside, sizes), atol=1e-4)


def test_moving_patches_join_what_their_boundaries_part():
    """A process of correlation 0.95 from frame to frame, denoised by the best linear map of patches of eight frames."""
    frames, patch, per_token = 32, 8, 2
    correlation = 0.95 ** np.abs(np.subtract.outer(np.arange(patch), np.arange(patch)))
    variances, axes = (jnp.asarray(x, jnp.float32) for x in np.linalg.eigh(correlation))
    variances = variances[None, None]

    def guided(_):
        def denoise(noisy, angles):
            cos, sin = jnp.cos(angles)[:, :1, None], jnp.sin(angles)[:, :1, None]
            patches = noisy.reshape(noisy.shape[0], -1, patch) @ axes
            clean = cos * variances / (jnp.square(cos) * variances + jnp.square(sin)) * patches
            clean = (clean @ axes.T).reshape(noisy.shape)
            return process.velocity_from_clean(noisy, clean, angles)

        return denoise

    noise = jax.random.normal(jax.random.key(6), (2000, frames, 1))
    tokens = jnp.zeros((2000, frames // per_token), jnp.int32)
    sizes = process.schedule("uniform", 60)
    parted = sample(guided(tokens), noise, sizes)
    joined = sample(shifted(guided, tokens, per_token), noise, sizes, shifts=range(patch // per_token))

    def across(z):
        return float(np.corrcoef(z[:, patch - 1, 0], z[:, patch, 0])[0, 1])

    assert abs(across(parted)) < 0.1
    assert across(joined) > 0.8
    assert 0.7 < float(joined.std()) <= 1.05  # some variance is lost where two expectations are mixed


def test_shifted_tokens_stay_with_their_frames():
    """A denoiser of single frames that knows the music from the tokens gives the same whatever the shift."""
    tokens = jax.random.randint(jax.random.key(7), (2, 6), 0, 9)
    noise = jax.random.normal(jax.random.key(8), (2, 12, 1))

    def guided(tokens):
        clean = 0.1 * jnp.repeat(tokens, 2, axis=1)[..., None].astype(jnp.float32)
        return lambda noisy, angles: process.velocity_from_clean(noisy, clean, angles)

    expected = np.repeat(tokens, 2, axis=1)[..., None] / 10
    for shifts in ((0,), (1,), (0, 2, 5)):
        z = sample(shifted(guided, tokens, 2), noise, process.schedule("linear", 7), shifts=shifts)
        np.testing.assert_allclose(z, expected, atol=1e-5)
