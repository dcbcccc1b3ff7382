"""k-means: assignment, k-means++ seeding, and an update that learns from batches.

Everything is a pure function of arrays, so it runs under jit over a batch sharded in any way: points are only ever
reduced (sums per centre, counts) or drawn by index. Float32 throughout: squared distances cancel in bfloat16.
"""

import flax.struct
import jax
import jax.numpy as jnp

from melody_jax.shapes import Array, Bool, Float, Int, Shaped


class KMeansState(flax.struct.PyTreeNode):
    """Centres and the running averages that they are ratios of. (Residual VQ stacks levels before these axes.)

    Attributes:
      centres: [C, H].
      counts: [C], moving average of the points per update that fell to a centre.
      sums: [C, H], moving average of the sum of those points.
    """

    centres: Float[Array, "..."]
    counts: Float[Array, "..."]
    sums: Float[Array, "..."]


class KMeansUpdate(flax.struct.PyTreeNode):
    """What one update did.

    Attributes:
      state: the new state.
      codes: [P], centre of every point before the update.
      error: scalar, mean squared distance of the points to their centres (before the update).
      used: scalar, fraction of the centres with at least one point.
      dead: scalar, fraction of the centres that were planted anew.
    """

    state: KMeansState
    codes: Int[Array, "..."]
    error: Float[Array, "..."]
    used: Float[Array, "..."]
    dead: Float[Array, "..."]


def squared_distances(centres: Float[Array, "C H"], x: Float[Array, "... H"]) -> Float[Array, "... C"]:
    """|x - c|^2 up to the term |x|^2, which no comparison between centres needs."""
    product = jnp.matmul(x.astype(jnp.float32), centres.astype(jnp.float32).T, precision="highest")
    norms = jnp.sum(jnp.square(centres.astype(jnp.float32)), axis=-1)
    return norms.reshape((1,) * (product.ndim - 1) + (-1,)) - 2.0 * product


def assign(centres: Float[Array, "C H"], x: Float[Array, "... H"]) -> Int[Array, "..."]:
    """Index of the nearest centre (the first of equals), int32."""
    return jnp.argmin(squared_distances(centres, x), axis=-1).astype(jnp.int32)


def seed(
    key: Shaped[Array, "..."], x: Float[Array, "P H"], count: int, valid: Bool[Array, " P"] | None = None
) -> Float[Array, "count H"]:
    """k-means++ (Arthur and Vassilvitskii, 2007): draws with probability ~ squared distance to the nearest drawn point.

    Args:
      x: the points.
      count: C, centres wanted; with fewer distinct points than that, points repeat.
      valid: points that may be drawn; all if None.
    """
    weight = jnp.ones(x.shape[:1], jnp.float32) if valid is None else valid.astype(jnp.float32)
    x = x.astype(jnp.float32)

    def step(distance: Array, key: Array) -> tuple[Array, Array]:
        centre = x[_draw(key, weight * (distance + 1e-20), ())]
        gap = jnp.sum(jnp.square(x - centre[None]), axis=-1)
        return jnp.minimum(distance, gap), centre

    _, centres = jax.lax.scan(step, jnp.full(x.shape[:1], jnp.float32(1e20)), jax.random.split(key, count))
    return centres


def start(centres: Float[Array, "*q C H"], points: Float[Array, ""] | float) -> KMeansState:
    """A state whose moving averages stand as if each centre had received its share of `points` points."""
    counts = jnp.broadcast_to(jnp.float32(points) / centres.shape[-2], centres.shape[:-1])
    return KMeansState(centres, counts, centres * counts[..., None])


def update(
    state: KMeansState,
    x: Float[Array, "P H"],
    key: Shaped[Array, "..."],
    *,
    decay: float = 0.9,
    dead_below: float = 0.05,
    valid: Bool[Array, " P"] | None = None,
) -> KMeansUpdate:
    """One step of k-means with exponential moving averages (van den Oord et al., 2017, appendix A.1).

    counts <- decay counts + (1 - decay) n, sums likewise, centre = sum / count; `decay` 0 is Lloyd's algorithm. A
    centre whose count falls below `dead_below` times the mean count moves to a random point of this batch.

    Args:
      x: points, sharded or not.
      key: draws the points that dead centres move to.
      decay: of the moving averages.
      dead_below: fraction of the mean count under which a centre is dead; 0 never moves one.
      valid: points that count; all if None.
    """
    x = x.astype(jnp.float32)
    weight = jnp.ones(x.shape[:1], jnp.float32) if valid is None else valid.astype(jnp.float32)
    points = jnp.maximum(jnp.sum(weight), 1.0)
    relative = squared_distances(state.centres, x)
    codes = jnp.argmin(relative, axis=-1).astype(jnp.int32)
    hits = jax.ops.segment_sum(weight, codes, state.centres.shape[0])
    counts = decay * state.counts + (1.0 - decay) * hits
    sums = decay * state.sums + (1.0 - decay) * jax.ops.segment_sum(x * weight[:, None], codes, state.centres.shape[0])
    centres = jnp.where(counts[:, None] > 1e-6, sums / jnp.maximum(counts, 1e-6)[:, None], state.centres)

    share = points / state.centres.shape[0]
    dead = counts < dead_below * share
    planted = x[_draw(key, weight, (state.centres.shape[0],))]
    centres = jnp.where(dead[:, None], planted, centres)
    counts = jnp.where(dead, share, counts)
    sums = jnp.where(dead[:, None], planted * share, sums)

    nearest = jnp.min(relative, axis=-1) + jnp.sum(jnp.square(x), axis=-1)
    return KMeansUpdate(
        state=KMeansState(centres, counts, sums),
        codes=codes,
        error=jnp.sum(jnp.maximum(nearest, 0.0) * weight) / points,
        used=jnp.mean((hits > 0).astype(jnp.float32)),
        dead=jnp.mean(dead.astype(jnp.float32)),
    )


def _draw(key: Array, weight: Array, shape: tuple[int, ...]) -> Array:
    """Indices with probability ~ `weight` [P], by inverting the cumulative sum: one random number per draw, not P."""
    total = jnp.cumsum(weight)
    at = jax.random.uniform(key, shape, jnp.float32) * total[-1]
    return jnp.minimum(jnp.searchsorted(total, at, side="right"), weight.shape[0] - 1)
