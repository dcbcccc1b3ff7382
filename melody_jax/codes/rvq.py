"""Residual vector quantisation (Zeghidour et al., SoundStream, 2021): each level quantises what the last one left over.

A codebook stack [Q, C, E] is all there is; a level is k-means on the residual of the levels before it.
"""

import flax.struct
import jax
import jax.numpy as jnp

from melody_jax.codes import kmeans
from melody_jax.shapes import Array, Bool, Float, Int, Shaped


class RVQUpdate(flax.struct.PyTreeNode):
    """What one update did, level by level.

    Attributes:
      state: the new state, every leaf with a leading level axis.
      codes: [Q, P], codes before the update.
      error: [Q], mean squared residual after level q (before the update).
      used: [Q], fraction of a level's entries with at least one point.
      dead: [Q], fraction of a level's entries that were planted anew.
    """

    state: kmeans.KMeansState
    codes: Int[Array, "Q P"]
    error: Float[Array, " Q"]
    used: Float[Array, " Q"]
    dead: Float[Array, " Q"]


def encode(codebooks: Float[Array, "Q C E"], x: Float[Array, "*b E"]) -> Int[Array, "*b Q"]:
    """Greedy codes: level q's entry nearest to the residual of levels 0 .. q-1. int32."""

    def level(residual: Array, codebook: Array) -> tuple[Array, Array]:
        code = kmeans.assign(codebook, residual)
        return residual - codebook[code], code

    _, codes = jax.lax.scan(level, x.astype(jnp.float32), codebooks.astype(jnp.float32))
    return jnp.moveaxis(codes, 0, -1)


def decode(codebooks: Float[Array, "Q C E"], codes: Int[Array, "*b levels"]) -> Float[Array, "*b E"]:
    """Sum of the chosen entries; with fewer codes than Q, of as many first levels."""
    levels = codes.shape[-1]
    entries = [codebooks[q].astype(jnp.float32)[codes[..., q]] for q in range(levels)]
    return sum(entries[1:], entries[0])


def seed(
    key: Shaped[Array, "..."],
    x: Float[Array, "P E"],
    levels: int,
    entries: int,
    valid: Bool[Array, " P"] | None = None,
) -> Float[Array, "levels entries E"]:
    """Codebooks whose level q is seeded with k-means++ on the residual of levels 0 .. q-1."""

    def level(residual: Array, key: Array) -> tuple[Array, Array]:
        codebook = kmeans.seed(key, residual, entries, valid)
        return residual - codebook[kmeans.assign(codebook, residual)], codebook

    _, codebooks = jax.lax.scan(level, x.astype(jnp.float32), jax.random.split(key, levels))
    return codebooks


def update(
    state: kmeans.KMeansState,
    x: Float[Array, "P E"],
    key: Shaped[Array, "..."],
    *,
    decay: float = 0.9,
    dead_below: float = 0.05,
    valid: Bool[Array, " P"] | None = None,
) -> RVQUpdate:
    """One joint step: every level takes one `kmeans.update` on the residual under the codebooks as they were.

    Args: as of `kmeans.update`; leaves of `state` have a leading level axis.
    """

    def level(residual: Array, inputs: tuple[kmeans.KMeansState, Array]) -> tuple[Array, kmeans.KMeansUpdate]:
        before, level_key = inputs
        result = kmeans.update(before, residual, level_key, decay=decay, dead_below=dead_below, valid=valid)
        return residual - before.centres[result.codes], result

    keys = jax.random.split(key, state.centres.shape[0])
    _, result = jax.lax.scan(level, x.astype(jnp.float32), (state, keys))
    return RVQUpdate(result.state, result.codes, result.error, result.used, result.dead)
