"""The beat and the bar as the language model sees them: the phases of a few harmonics."""

import jax.numpy as jnp
import numpy as np

from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.shapes import Array, Float, Int

HARMONICS = 4
"""Of the beat (down to a quarter of it) and of the bar."""


def phases(
    vocabulary: Vocabulary, condition: Int[Array, "B prefix"], moments: Int[Array, "#B W"]
) -> Float[Array, "B W features"]:
    """For the beat, then for the bar: 1, cos(2 pi k x) and sin(2 pi k x) for k = 1 .. HARMONICS, x counting beats or bars;
    all 0 where it is unknown.

    Args:
      vocabulary: one with controls.
      condition: `Vocabulary.condition`.
      moments: counted from the first one after the condition.
    """
    beats, bar, known = vocabulary.beats(condition, moments)
    return jnp.concatenate(
        [_turns(beats, known), _turns(beats / jnp.maximum(bar, 1).astype(jnp.float32), bar > 0)], axis=-1
    )


def _turns(x: Float[Array, "B W"], known: Array) -> Float[Array, "B W features"]:
    angles = 2 * jnp.pi * (x - jnp.floor(x))[..., None] * np.arange(1, HARMONICS + 1, dtype=np.float32)[None, None]
    features = jnp.concatenate([jnp.ones_like(x)[..., None], jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.where(known[..., None], features, 0.0)
