"""Which frames are hidden, and which others each must be told apart from. Static shapes: all of it runs under jit."""

import math

import jax
import jax.numpy as jnp

from melody_jax.shapes import Array, Bool, Int, Shaped


def span_mask(
    key: Shaped[Array, "..."], batch: int, frames: int, probability: float, length: int
) -> Bool[Array, "B N"]:
    """Random spans of `length` frames, starts drawn without replacement; True = masked (wav2vec 2.0, section 4.2).

    The number of spans is probability * frames / length, rounded up or down at random (for the whole batch, as in
    Hugging Face's implementation); spans may overlap.
    """
    length = min(length, frames)
    places = frames - length + 1
    wanted = probability * frames / length
    most = min(math.floor(wanted) + 1, places)
    round_key, start_key = jax.random.split(key)
    spans = jnp.floor(wanted + jax.random.uniform(round_key, (), jnp.float32)).astype(jnp.int32)
    _, starts = jax.lax.top_k(jax.random.uniform(start_key, (batch, places), jnp.float32), most)
    real = jnp.arange(most, dtype=jnp.int32) < jnp.maximum(spans, 1)
    position = jnp.arange(frames, dtype=jnp.int32)[None, None]
    inside = (position >= starts[..., None]) & (position < starts[..., None] + length) & real[None, :, None]
    return jnp.any(inside, axis=1)


def sample_negatives(key: Shaped[Array, "..."], mask: Bool[Array, "B N"], count: int) -> Int[Array, "B N negatives"]:
    """For each masked frame `count` other masked frames of its clip, uniformly and with replacement.

    Rows of frames that are not masked are meaningless; so is everything in a clip with fewer than two masked frames.
    """
    masked = jnp.sum(mask, axis=1, dtype=jnp.int32)[:, None, None]
    order = jnp.argsort(jnp.logical_not(mask), axis=1, stable=True)  # masked frames first, in order of time
    rank = (jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1)[..., None]
    draw = jax.random.uniform(key, (*mask.shape, count), jnp.float32)
    others = jnp.maximum(masked - 1, 1)
    drawn = jnp.minimum((draw * others.astype(jnp.float32)).astype(jnp.int32), others - 1)
    drawn = drawn + (drawn >= rank).astype(jnp.int32)  # skips the frame itself, and stays uniform
    drawn = jnp.minimum(drawn, mask.shape[1] - 1)
    picked = jnp.take_along_axis(order, drawn.reshape(mask.shape[0], -1), axis=1)
    return picked.reshape(drawn.shape).astype(jnp.int32)


def sample_pool(key: Shaped[Array, "..."], mask: Bool[Array, "B N"], count: int) -> Int[Array, " pool"]:
    """`count` different masked frames of the whole batch, as indices into its B * N frames (at most all of them).

    With fewer masked frames than that, frames that are not masked fill up.
    """
    flat = mask.reshape(-1)
    weight = jax.random.uniform(key, flat.shape, jnp.float32) + flat.astype(jnp.float32)
    return jax.lax.top_k(weight, min(count, weight.shape[0]))[1].astype(jnp.int32)
