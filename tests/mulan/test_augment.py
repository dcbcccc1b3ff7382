"""Augmentation: off by default, the same for the same key, and within its bounds."""

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.mulan.augment import AugmentConfig, augment_audio, augment_spectrogram

augment_spectrogram = jax.jit(augment_spectrogram, static_argnums=2)
KEY = jax.random.PRNGKey(0)
X = jax.random.normal(jax.random.PRNGKey(1), (8, 40, 20)) + 10  # no value is 0


def test_the_defaults_change_nothing():
    np.testing.assert_array_equal(augment_spectrogram(KEY, X, AugmentConfig()), X)
    np.testing.assert_array_equal(augment_audio(KEY, X[:, :, 0], AugmentConfig()), X[:, :, 0])


def test_gain_is_one_factor_per_clip_within_its_bounds():
    ratio = augment_audio(KEY, X[:, :, 0], AugmentConfig(gain_db=6.0)) / X[:, :, 0]
    np.testing.assert_allclose(ratio, jnp.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-5)
    decibels = 20 * np.log10(np.asarray(ratio[:, 0]))
    assert np.abs(decibels).max() <= 6.0 and np.ptp(decibels) > 3


def test_rotation_keeps_the_frames():
    rolled = np.asarray(augment_spectrogram(KEY, X, AugmentConfig(roll=1.0)))
    np.testing.assert_array_equal(np.sort(rolled, axis=1), np.sort(np.asarray(X), axis=1))
    assert np.any(rolled != np.asarray(X))


def test_masks_cover_whole_frames_and_bands_and_no_more_than_allowed():
    config = AugmentConfig(time_masks=1, time_mask=0.25, band_masks=1, band_mask=0.2)
    gone = np.asarray(augment_spectrogram(KEY, X, config)) == 0
    frames, bands = gone.all(axis=2), gone.all(axis=1)
    np.testing.assert_array_equal(gone, frames[:, :, None] | bands[:, None, :])
    assert frames.any() and bands.any()
    assert frames.sum(axis=1).max() <= 11 and bands.sum(axis=1).max() <= 5
