"""Phases that go on from music that stands already."""

import jax.numpy as jnp
import numpy as np

from melody_jax.autoencoder.config import MagnitudeConfig
from melody_jax.autoencoder.decoder_magnitude import log_magnitude, waveform

RATE, HOP, FRAMES = 8_000, 64, 80
SHAPE = MagnitudeConfig(window=512, frames=1, iterations=16)


def test_tones_go_on_where_they_are_and_known_samples_stay():
    """Without the known half the phases of the other one are arbitrary; with it they are those of the music."""
    t = np.arange(HOP * FRAMES) / RATE
    tone = sum(0.2 * np.sin(2 * np.pi * hz * t + hz) for hz in (300.0, 730.0, 1_210.0)).astype(np.float32)
    audio, half = jnp.asarray(tone)[None], len(tone) // 2
    predicted = log_magnitude(audio, SHAPE.window, HOP)
    fixed = jnp.arange(len(tone))[None] < half
    joined = np.asarray(waveform(predicted, SHAPE, HOP, jnp.where(fixed, audio, 0.0), fixed))[0]
    np.testing.assert_array_equal(joined[:half], tone[:half])
    alone = np.asarray(waveform(predicted, SHAPE, HOP))[0]
    after = slice(half, half + 1_500)
    likeness = [float(np.corrcoef(made[after], tone[after])[0, 1]) for made in (joined, alone)]
    assert likeness[0] > 0.9 > 0.5 > abs(likeness[1])
    np.testing.assert_array_equal(
        waveform(predicted, SHAPE, HOP, jnp.zeros_like(audio), jnp.zeros(audio.shape, bool))[0], alone
    )
