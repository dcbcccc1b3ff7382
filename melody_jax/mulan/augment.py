"""What keeps a music tower from learning a small corpus by heart: random level, rotation in time, SpecAugment."""

import dataclasses

import jax
import jax.numpy as jnp

from melody_jax.shapes import Array, Bool, Float, UInt32


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """The defaults change nothing.

    Attributes:
      gain_db: the level of each clip is changed by up to this many decibels, up or down.
      roll: share of the clip by which it is rotated in time at most; 1.0 starts anywhere.
      time_masks: SpecAugment (Park et al., 2019) masks along time, per clip.
      time_mask: longest of them, as a share of the clip.
      band_masks: masks along frequency, per clip.
      band_mask: highest of them, as a share of the bands.
    """

    gain_db: float = 0.0
    roll: float = 0.0
    time_masks: int = 0
    time_mask: float = 0.1
    band_masks: int = 0
    band_mask: float = 0.15


def augment_audio(key: UInt32[Array, "2"], audio: Float[Array, "B T"], config: AugmentConfig) -> Float[Array, "B T"]:
    """Every clip at its own random level."""
    if not config.gain_db:
        return audio
    decibels = jax.random.uniform(key, (audio.shape[0], 1), minval=-config.gain_db, maxval=config.gain_db)
    return audio * 10 ** (decibels / 20)


def augment_spectrogram(
    key: UInt32[Array, "2"], x: Float[Array, "B F M"], config: AugmentConfig
) -> Float[Array, "B F M"]:
    """Every normalised log-mel spectrogram rotated and masked in its own way; masked parts are 0, the corpus mean."""
    batch, frames, mels = x.shape
    roll_key, time_key, band_key = jax.random.split(key, 3)
    if config.roll:
        shifts = jax.random.randint(roll_key, (batch,), 0, max(1, round(config.roll * frames)))
        x = jax.vmap(lambda clip, shift: jnp.roll(clip, shift, axis=0))(x, shifts)
    if config.time_masks:
        keep = _keep(time_key, (batch, config.time_masks), frames, config.time_mask)
        x = jnp.where(keep[:, :, None], x, 0.0)
    if config.band_masks:
        keep = _keep(band_key, (batch, config.band_masks), mels, config.band_mask)
        x = jnp.where(keep[:, None, :], x, 0.0)
    return x


def _keep(key: UInt32[Array, "2"], count: tuple[int, int], length: int, longest: float) -> Bool[Array, "B length"]:
    """False inside `count[1]` random intervals per row, each of uniform length up to `longest` times `length`."""
    length_key, start_key = jax.random.split(key)
    sizes = jax.random.uniform(length_key, count, maxval=longest * length)
    starts = jax.random.uniform(start_key, count) * (length - sizes)
    at = jnp.arange(length, dtype=jnp.float32)[None, None, :]
    inside = (at >= starts[:, :, None]) & (at < (starts + sizes)[:, :, None])
    return ~jnp.any(inside, axis=1)
