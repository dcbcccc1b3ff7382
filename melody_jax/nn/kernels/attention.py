"""Attention that keeps its scores in the chip's vector memory (VMEM), forwards and backwards.

XLA writes the scores [W, U] of every head to memory and reads them again for each step of the softmax: at a thousand
tokens and heads of 64 that traffic takes longer than all matrix products of a layer. Here a step of the grid holds a
block of queries and all keys of a clip, for as many heads as fit into 128 lanes, so that

    q = R(positions) query / sqrt(dim),  k = R(positions) key        rotary positions, where there are any
    p = softmax(q k^T + mask),           y = p value

never leave it. To compute one head, the lanes of the other heads in q are set to zero: a product over 128 lanes takes
the matrix unit no longer than one over 64, and nothing moves between lanes. The backward pass keeps only query, key and
value. It computes p again as p^T, with keys along the sublanes, which is what the gradients of key and value need.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from melody_jax.parallel import activations
from melody_jax.shapes import Array, Bool, Float

LANES = 128
LONGEST = 2048
"""Most keys that the vector memory holds together with the scores of two heads; for more keys XLA's operations run
instead."""
BLOCK = 256
"""Queries in a step of the grid, if one step cannot hold all of them."""
SCORES = 2**18
"""Most scores of a head for which all queries are put into one step."""
LOWEST = float(jnp.finfo(jnp.float32).min)


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is known when a program is traced.

    Attributes:
      dim: width of a head.
      causal: whether query i sees keys 0 .. i only.
      turned: whether there are rotary positions.
      masked: whether there is a mask of keys.
    """

    dim: int
    causal: bool
    turned: bool
    masked: bool


def fits(width: int, dim: int, keys: int, dtype: Any) -> bool:
    """Whether the kernel can run heads of `dim` side by side in `width`: 16-bit numbers, full lanes on every chip, and
    not too many keys."""
    if jnp.dtype(dtype).itemsize != 2:
        return False
    own = activations.share(width, "heads")
    return (
        keys * max(2, LANES // dim) <= 2 * LONGEST
        and own % LANES == 0
        and (LANES % dim == 0 or dim % LANES == 0)
        and own % dim == 0
    )


def attention(
    query: Float[Array, "B W channels"],
    key: Float[Array, "B U channels"],
    value: Float[Array, "B U channels"],
    dim: int,
    causal: bool = False,
    turns: tuple[tuple[Array, Array], tuple[Array, Array]] | None = None,
    mask: Bool[Array, "B U"] | None = None,
) -> Float[Array, "B W channels"]:
    """Multi-head attention, heads side by side in channels = heads * dim. Returns query's dtype.

    Args:
      query, key, value: before rotary positions.
      dim: width of a head.
      causal: query i sees keys 0 .. i only.
      turns: `turn` of the positions of queries and of keys, or None for no rotary positions.
      mask: True = a key that is seen.
    """
    spec = Spec(dim, causal, turns is not None, mask is not None)
    return _attention(spec, query, key, value, turns, None if mask is None else mask.astype(jnp.float32))


def turn(positions: Array, dim: int, base: float) -> tuple[Float[Array, "#B W L"], Float[Array, "#B W L"]]:
    """Cosines and signed sines of the angles of `nn.attention.rotary` for positions [#B, W], repeated over the lanes of
    a step."""
    half = dim // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions.astype(jnp.float32)[:, :, None] * frequency[None, None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    heads = max(LANES // dim, 1)
    return jnp.tile(cos, (1, 1, 2 * heads)), jnp.tile(jnp.concatenate([-sin, sin], -1), (1, 1, heads))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(spec: Spec, query: Array, key: Array, value: Array, turns: Any, mask: Any) -> Array:
    return _on_chips(_forward, spec, (query, key, value), turns, mask, ())


def _attention_forward(spec, query, key, value, turns, mask):
    return _attention(spec, query, key, value, turns, mask), (query, key, value, turns, mask)


def _attention_backward(spec, kept, gradient):
    query, key, value, turns, mask = kept
    gradients = _on_chips(_backward, spec, (query, key, value), turns, mask, (gradient,))
    return *gradients, jax.tree.map(jnp.zeros_like, turns), jax.tree.map(jnp.zeros_like, mask)


_attention.defvjp(_attention_forward, _attention_backward)


def _on_chips(
    run: Any, spec: Spec, heads: tuple[Array, ...], turns: Any, mask: Any, gradient: tuple[Array, ...]
) -> Any:
    """`run` on each chip's share of the batch and the heads; positions of a single row hold for all rows."""
    tables, axes = jax.tree.leaves((turns, mask)), ("batch", None, "heads")
    lies = tuple(("batch" if table.shape[0] > 1 else None, *[None] * (table.ndim - 1)) for table in tables)
    inputs = (*[axes] * (3 + len(gradient)), *lies)
    outputs = (axes,) * 3 if gradient else axes
    return activations.per_chip(functools.partial(run, spec), inputs, outputs)(*heads, *gradient, *tables)


def _layout(spec: Spec, query: Any, key: Any) -> tuple[int, int, int, tuple[int, ...]]:
    """(rows of a step, its queries, its lanes, the grid) of a chip's arrays [B, W, channels] and [B, U, channels]."""
    batch, width, channels = query.shape
    lanes = max(LANES, spec.dim)
    block = width if width * key.shape[1] <= SCORES else BLOCK
    # Short sequences share a step: its fixed cost is that of a few hundred rows of scores.
    rows = max(rows for rows in range(1, max(1, BLOCK // max(width, key.shape[1])) + 1) if batch % rows == 0)
    return rows, block, lanes, (batch // rows, channels // lanes, pl.cdiv(width, block))


def _specs(spec: Spec, query: Array, key: Array, tables: tuple[Array, ...], column: bool) -> tuple[Any, Any, list[Any]]:
    """BlockSpecs of queries, of keys, and of the tables (turns of queries and keys, mask of keys)."""
    rows, block, lanes, _ = _layout(spec, query, key)
    of_queries = pl.BlockSpec((rows, block, lanes), lambda b, c, q: (b, q, c))
    of_keys = pl.BlockSpec((rows, key.shape[1], lanes), lambda b, c, q: (b, 0, c))
    found = []
    for index, table in enumerate(tables[:4] if spec.turned else ()):
        many = table.shape[0] > 1
        size, where = (block, lambda q: q) if index < 2 else (key.shape[1], lambda q: 0)
        found.append(
            pl.BlockSpec(
                (rows if many else 1, size, lanes),
                lambda b, c, q, many=many, where=where: (b if many else 0, where(q), 0),
            )
        )
    if spec.masked:
        found.append(
            pl.BlockSpec((rows, *((key.shape[1], 1) if column else (1, key.shape[1]))), lambda b, c, q: (b, 0, 0))
        )
    return of_queries, of_keys, found


def _tables(spec: Spec, tables: tuple[Array, ...], column: bool) -> tuple[Array, ...]:
    """The mask as a column beside the keys, or as a row above them."""
    return (*tables[:-1], tables[-1][:, :, None] if column else tables[-1][:, None]) if spec.masked else tables


def _forward(spec: Spec, query: Array, key: Array, value: Array, *tables: Array) -> Array:
    """y [B, W, channels] of a chip."""
    tables = _tables(spec, tables, False)
    of_queries, of_keys, of_tables = _specs(spec, query, key, tables, False)
    grid = _layout(spec, query, key)[-1]
    return pl.pallas_call(
        functools.partial(_forward_kernel, spec),
        grid=grid,
        in_specs=[of_queries, of_keys, of_keys, *of_tables],
        out_specs=of_queries,
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=_cost(spec, query, key, 2, 4),
        interpret=not activations.on_tpu(),
        name=f"attention_forward_{math.prod(grid)}_steps",
    )(query, key, value, *tables)


def _backward(spec: Spec, query: Array, key: Array, value: Array, gradient: Array, *tables: Array) -> tuple[Array, ...]:
    """Gradients of query, key and value of a chip."""
    tables = _tables(spec, tables, True)
    of_queries, of_keys, of_tables = _specs(spec, query, key, tables, True)
    rows, _, lanes, grid = _layout(spec, query, key)
    return pl.pallas_call(
        functools.partial(_backward_kernel, spec, query.shape[1]),
        grid=grid,
        in_specs=[of_queries, of_keys, of_keys, of_queries, *of_tables],
        out_specs=[of_queries, of_keys, of_keys],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (query, key, value)],
        scratch_shapes=[pltpu.VMEM((rows, key.shape[1], lanes), jnp.float32)] * (2 if grid[2] > 1 else 0),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=_cost(spec, query, key, 5, 7),
        interpret=not activations.on_tpu(),
        name=f"attention_backward_{math.prod(grid)}_steps",
    )(query, key, value, gradient, *tables)


def _cost(spec: Spec, query: Array, key: Array, products: int, arrays: int) -> pl.CostEstimate:
    scores = query.shape[0] * query.shape[2] // spec.dim * query.shape[1] * key.shape[1]
    moved = query.size * query.dtype.itemsize * arrays
    return pl.CostEstimate(flops=2 * products * scores * spec.dim, transcendentals=scores, bytes_accessed=moved)


def _forward_kernel(spec: Spec, query: Any, key: Any, value: Any, *rest: Any) -> None:
    *tables, out = rest
    rows, width, lanes = query.shape
    mine = _heads(spec, lanes)
    for row in range(rows):
        turns, mask = _of_row(spec, tables, row)
        q = _turned(spec, query[row], turns[:2], spec.dim**-0.5)
        k, v = _turned(spec, key[row], turns[2:], 1.0), value[row]
        y = jnp.zeros((width, lanes), jnp.float32)
        for own in mine:
            scores = _product(jnp.where(own, q, jnp.zeros_like(q)), k, 1, 1)
            scores = _seen(spec, scores, mask, 0)
            weights = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
            total = jnp.sum(weights, axis=1, keepdims=True)
            y = jnp.where(own, _product(weights.astype(v.dtype), v, 1, 0) / total, y)
        out[row] = y.astype(out.dtype)


def _backward_kernel(spec: Spec, count: int, query: Any, key: Any, value: Any, gradient: Any, *rest: Any) -> None:
    tables, (d_query, d_key, d_value), sums = _split(rest, 4 * spec.turned + spec.masked)
    rows, width, lanes = query.shape
    mine, step = _heads(spec, lanes), pl.program_id(2)
    # In the last block, queries beyond the sequence hold arbitrary values: set to zero, they add nothing.
    inside = step * width + jax.lax.broadcasted_iota(jnp.int32, (width, lanes), 0) < count
    for row in range(rows):
        turns, mask = _of_row(spec, tables, row)
        q, g = _turned(spec, query[row], turns[:2], spec.dim**-0.5), gradient[row]
        if count % width:
            q, g = jnp.where(inside, q, jnp.zeros_like(q)), jnp.where(inside, g, jnp.zeros_like(g))
        k, v = _turned(spec, key[row], turns[2:], 1.0), value[row]
        dq = jnp.zeros((width, lanes), jnp.float32)
        dk = dv = jnp.zeros((key.shape[1], lanes), jnp.float32)
        for own in mine:
            own_q, own_g = jnp.where(own, q, jnp.zeros_like(q)), jnp.where(own, g, jnp.zeros_like(g))
            scores = _seen(spec, _product(k, own_q, 1, 1), mask, 1)
            weights = jnp.exp(scores - jnp.max(scores, axis=0, keepdims=True))
            weights = weights * (1 / jnp.sum(weights, axis=0, keepdims=True))
            dv += _product(weights.astype(g.dtype), own_g, 1, 0)
            d_weights = _product(v, own_g, 1, 1)
            d_scores = weights * (d_weights - jnp.sum(weights * d_weights, axis=0, keepdims=True))
            d_scores = d_scores.astype(k.dtype)
            dk += _product(d_scores, own_q, 1, 0)
            dq = jnp.where(own, _product(d_scores, k, 0, 0), dq)
        d_query[row] = _turned_back(spec, dq * spec.dim**-0.5, turns[:2]).astype(d_query.dtype)
        _sum(sums[0], d_key, row, dk, functools.partial(_turned_back, spec, turns=turns[2:]))
        _sum(sums[1], d_value, row, dv, lambda x: x)


def _sum(total: Any, out: Any, row: int, term: Array, finish: Any) -> None:
    """Adds what a block of queries contributes to the gradient of the keys; `total` is None if there is only one
    block."""
    if total is None:
        out[row] = finish(term).astype(out.dtype)
        return

    @pl.when(pl.program_id(2) == 0)
    def _():
        total[row] = jnp.zeros_like(term)

    total[row] += term

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _():
        out[row] = finish(total[row]).astype(out.dtype)


def _split(rest: tuple[Any, ...], tables: int) -> tuple[Any, Any, Any]:
    """Sorts a kernel's references: tables, gradients of query, key and value, and the sums for those of keys and
    values."""
    return rest[:tables], rest[tables : tables + 3], rest[tables + 3 :] or (None, None)


def _heads(spec: Spec, lanes: int) -> list[Array]:
    """For every head of a step [1, L]: the lanes that are its own."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, lanes), 1)
    return [(lane >= first) & (lane < first + spec.dim) for first in range(0, lanes, spec.dim)]


def _of_row(spec: Spec, tables: Any, row: int) -> tuple[list[Any], Any]:
    """The tables of one row of the step."""
    of = [table[row if table.shape[0] > 1 else 0] for table in tables]
    return of[: 4 * spec.turned], of[-1] if spec.masked else None


def _product(left: Array, right: Array, of_left: int, of_right: int) -> Array:
    """Contracts one axis of each; sums in float32."""
    exact = jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        left, right, (((of_left,), (of_right,)), ((), ())), precision=exact, preferred_element_type=jnp.float32
    )


def _seen(spec: Spec, scores: Array, mask: Any, queries: int) -> Array:
    """Scores with the lowest number where a key is masked; `queries` is their axis."""
    if spec.causal:
        at = [jax.lax.broadcasted_iota(jnp.int32, scores.shape, axis) for axis in (queries, 1 - queries)]
        first = pl.program_id(2) * scores.shape[queries]
        scores = jnp.where(at[0] + first >= at[1], scores, LOWEST)
    return scores if mask is None else jnp.where(mask > 0, scores, LOWEST)


def _turned(spec: Spec, x: Array, turns: list[Any], scale: float) -> Array:
    """R(positions) x * scale."""
    if not turns:
        return x if scale == 1 else (x.astype(jnp.float32) * scale).astype(x.dtype)
    wide = x.astype(jnp.float32)
    return ((wide * turns[0] + _swapped(spec, wide) * turns[1]) * scale).astype(x.dtype)


def _turned_back(spec: Spec, x: Array, turns: list[Any]) -> Array:
    """R(-positions) x, float32."""
    return x * turns[0] - _swapped(spec, x) * turns[1] if turns else x


def _swapped(spec: Spec, x: Array) -> Array:
    """The two halves of every head, swapped."""
    half, lanes = spec.dim // 2, x.shape[1]
    if lanes == spec.dim:
        return pltpu.roll(x, half, 1)
    first = jax.lax.broadcasted_iota(jnp.int32, (1, lanes), 1) & (spec.dim - 1) < half
    return jnp.where(first, pltpu.roll(x, lanes - half, 1), pltpu.roll(x, half, 1))
