"""Moments of latents: sums of batches add up, and the autocovariance has the right sign of time."""

import numpy as np

from melody_jax.autoencoder.moments import moments, sums


def test_moments_of_a_known_process():
    """Channel 1 repeats channel 0 two frames later."""
    source = np.random.default_rng(0).normal(size=(50, 402))
    latents = np.stack([source[:, 2:], source[:, :-2]], axis=-1) + np.array([1.0, -2.0])
    found = moments(sums(latents, 4), scale=0.5)
    np.testing.assert_allclose(found["mean"], [0.5, -1.0], atol=0.01)
    expected = np.zeros((4, 2, 2))
    expected[0] = 0.25 * np.eye(2)
    expected[2, 0, 1] = 0.25
    np.testing.assert_allclose(found["autocovariance"], expected, atol=0.01)


def test_sums_of_batches_add_up():
    latents = np.random.default_rng(1).normal(size=(8, 30, 3))
    whole, first, second = sums(latents, 5), sums(latents[:3], 5), sums(latents[3:], 5)
    for name, value in whole.items():
        np.testing.assert_allclose(first[name] + second[name], value, rtol=1e-12)
    covariance = moments(whole, 1.0)["autocovariance"][0]
    np.testing.assert_allclose(covariance, np.cov(latents.reshape(-1, 3).T, bias=True), rtol=1e-5)
