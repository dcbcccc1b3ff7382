"""A ring buffer of the last vectors seen, as pure functions: bounded, and bit-exact to resume."""

import jax
import jax.numpy as jnp

from melody_jax.shapes import Array, Bool, Float, Int


def size(capacity: int, added: int) -> int:
    """Rows of a memory of at least `capacity` rows that takes `added` rows at a time."""
    return -(-capacity // added) * added


def push(memory: Float[Array, "P H"], rows: Float[Array, "added H"], step: Int[Array, ""]) -> Float[Array, "P H"]:
    """The memory with `rows` in the place of the oldest ones, as push number `step` (from 0) of equally many rows."""
    start = (step % (memory.shape[0] // rows.shape[0])) * rows.shape[0]
    return jax.lax.dynamic_update_slice_in_dim(memory, rows.astype(memory.dtype), start, axis=0)


def filled(memory: Float[Array, "P H"], added: int, step: Int[Array, ""]) -> Bool[Array, " P"]:
    """Which rows hold a vector after push number `step` of `added` rows each."""
    return jnp.arange(memory.shape[0], dtype=jnp.int32) < (step + 1) * added


def variance(memory: Float[Array, "P H"], valid: Bool[Array, " P"]) -> Float[Array, ""]:
    """Mean squared distance of the valid rows to their mean: the error of a codebook with one entry."""
    weight = valid.astype(jnp.float32)[:, None]
    count = jnp.maximum(jnp.sum(weight), 1.0)
    mean = jnp.sum(memory * weight, axis=0, keepdims=True) / count
    return jnp.sum(jnp.square(memory - mean) * weight) / count
