"""The gated linear recurrence of the SRU as one pass over memory.

    c_t = f_t c_{t-1} + (1 - f_t) candidate_t          f_t = sigmoid(forget_t + b_f)
    h_t = r_t c_t + (1 - r_t) highway_t                r_t = sigmoid(output_t + b_r)

A parallel scan in XLA passes log2(steps) times over float32 states in memory. Here a sequence stays on the chip: each
array is read or written once, in its compute dtype, and everything between is float32. Time lies along the sublanes of
a register, eight steps each. The eight steps are a scan of three rounds inside the register, and only the last state
goes on to the next eight. All lanes of a block run in the same direction.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from melody_jax.parallel import activations
from melody_jax.shapes import Array, Float

LANES = 128
STEPS = 8  # a register is [8, 128] in float32
TILE = 16  # and two of them in bfloat16
WIDEST = 6  # registers side by side: enough independent work to hide the time that each waits for its previous step
LONGEST = 1024  # most steps: the loop is unrolled, and one row in one register's lanes takes up to 9 MB
BLOCKS_BYTES = 8 * 2**20  # of a kernel's arrays, each of them twice: one block is computed while the next is loaded


def fits(steps: int, features: int) -> bool:
    """Whether the features fill whole registers of one direction each, and a core's memory holds at least a block of
    sequences."""
    return features % LANES == 0 and steps <= LONGEST


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def gated_recurrence(
    candidate: Float[Array, "... steps O"],
    forget: Float[Array, "... steps O"],
    output: Float[Array, "... steps O"],
    highway: Float[Array, "... steps O"],
    biases: Float[Array, "2 O"],
    features: int,
) -> Float[Array, "... steps O"]:
    """h of all steps, from c = 0. There are `features` lanes, or twice as many; the second half runs from the end of
    time.

    Args:
      candidate, forget, output, highway: of the same shape and dtype; the gates are given before bias and sigmoid.
      biases: of `forget` and of `output`, float32. They are added here because separate passes over the gates, and over
        their gradients, would take as long as the kernel.
      features: width of a direction.
    """
    return _forward(candidate, forget, output, highway, biases, features)[0]


def _forward(candidate, forget, output, highway, biases, features):
    arrays = candidate, forget, output, highway
    axes = _axes(candidate)
    run = activations.per_chip(functools.partial(_call, features), (("mlp",), (None, "mlp"), *[axes] * 4), (axes,))
    (h,) = run(_directions(candidate, features), biases, *arrays)
    return h, (arrays, biases)


def _backward(features, residuals, gradient):
    arrays, biases = residuals
    axes = _axes(gradient)
    sums = (axes[0], None, None, "mlp")
    inputs, outputs = (("mlp",), (None, "mlp"), *[axes] * 5), (*[axes] * 4, sums)
    run = activations.per_chip(functools.partial(_call, features), inputs, outputs)
    *gradients, sums = run(_directions(gradient, features), biases, *arrays, gradient)
    return *gradients, jnp.sum(sums, (0, 2))


gated_recurrence.defvjp(_forward, _backward)


def _axes(x):
    return ("batch" if x.ndim > 2 else None, *[None] * (x.ndim - 2), "mlp")


def _directions(x, features):
    """[O / 128]: 1 where lanes run from the end. An array, so that it is split over chips as the lanes are."""
    return jnp.arange(x.shape[-1] // LANES, dtype=jnp.int32) // (features // LANES)


def _call(features, reverse, biases, *arrays):
    """Runs the forward kernel on four arrays [..., steps, O], or the backward kernel on five, the last of which is the
    gradient of h.

    Returns h, or the gradients of the four arrays and [row blocks, 2, 8, O], whose sum is the gradient of the biases.
    """
    backward = len(arrays) == 5
    shape, dtype = arrays[0].shape, arrays[0].dtype
    steps, width = shape[-2:]
    arrays = [x.reshape(-1, steps, width) for x in arrays]
    rows, whole = arrays[0].shape[0], -(-steps // TILE) * TILE
    if whole > steps:  # zero padding is harmless: a candidate of zero keeps a state of zero
        arrays = [jnp.pad(x, ((0, 0), (0, whole - steps), (0, 0))) for x in arrays]
    results = 4 if backward else 1
    moved, elements = len(arrays) + results, rows * whole * width
    fitting = BLOCKS_BYTES // (2 * moved * whole * LANES * dtype.itemsize)  # rows of 128 lanes
    alike = math.gcd(width, features) // LANES
    lanes = LANES * max(n for n in range(1, WIDEST + 1) if alike % n == 0 and n <= max(1, fitting))
    block_rows = max(1, min(rows, fitting * LANES // lanes))
    grid = (pl.cdiv(rows, block_rows), width // lanes)
    block = pl.BlockSpec((block_rows, whole, lanes), lambda row, lane, _: (row, 0, lane))
    out_specs, out_shape = [block] * results, [jax.ShapeDtypeStruct((rows, whole, width), dtype)] * results
    if backward:
        out_specs.append(pl.BlockSpec((None, 2, STEPS, lanes), lambda row, lane, _: (row, 0, 0, lane)))
        out_shape.append(jax.ShapeDtypeStruct((grid[0], 2, STEPS, width), jnp.float32))
    found = pl.pallas_call(
        functools.partial(_backward_kernel if backward else _forward_kernel, rows),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[pl.BlockSpec((2, lanes), lambda row, lane, _: (0, lane)), *[block] * len(arrays)],
            out_specs=out_specs,
            scratch_shapes=[pltpu.VMEM((3, whole, lanes), jnp.float32)] if backward else [],
        ),
        out_shape=out_shape,
        cost_estimate=pl.CostEstimate(
            flops=(25 if backward else 10) * elements,
            transcendentals=2 * elements,
            bytes_accessed=moved * elements * dtype.itemsize,
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=not activations.on_tpu(),
        # there is a loop over rows for each direction, and a step runs one of the two: each counts half its rounds
        name=f"sru_{'backward' if backward else 'forward'}_{math.prod(grid)}x{-(-block_rows // 2)}_steps",
    )(reverse, biases, *arrays)
    return *[x[:, :steps].reshape(shape) for x in found[:results]], *found[results:]


def _forward_kernel(rows, reverse, biases, *refs):
    _every_row(_forward_row, rows, reverse, biases, refs)


def _backward_kernel(rows, reverse, biases, *refs):
    sums = refs[-2]
    sums[...] = jnp.zeros_like(sums)
    _every_row(_backward_row, rows, reverse, biases, refs)


def _every_row(function, rows, reverse, biases, refs):
    """Runs the function on every row of a block (the last block may have fewer), in the direction of its lanes."""
    block_rows, _, lanes = refs[0].shape
    here = jnp.minimum(block_rows, rows - pl.program_id(0) * block_rows)
    backwards = reverse[pl.program_id(1) * (lanes // LANES)] == 1
    for direction in (False, True):

        @pl.when(backwards == direction)
        def _(direction=direction):
            def row(index, carry):
                function(index, direction, biases, *refs)
                return carry

            jax.lax.fori_loop(0, here, row, 0)


def _forward_row(row, reverse, biases, candidate, forget, output, highway, h):
    carry = jnp.zeros((1, h.shape[-1]), jnp.float32)
    for tile in _tiles(h.shape[1], reverse):
        a, f, r, x = (ref[row, tile].astype(jnp.float32) for ref in (candidate, forget, output, highway))
        f, r = _sigmoid(f + biases[:1]), _sigmoid(r + biases[1:])
        c, carry = _scan(f, a - f * a, carry, reverse)
        h[row, tile] = (x + r * (c - x)).astype(h.dtype)


def _backward_row(row, reverse, biases, candidate, forget, output, highway, dh, da, df, dr, dx, sums, kept):
    """The gradient of c_t is g_t = r_t dh_t + p_{t+1}, with p_t = f_t g_t the recurrence from the other end."""
    carry = jnp.zeros((1, dh.shape[-1]), jnp.float32)
    for tile in _tiles(dh.shape[1], reverse):
        a, f, r, x, dy = (ref[row, tile].astype(jnp.float32) for ref in (candidate, forget, output, highway, dh))
        f, r = _sigmoid(f + biases[:1]), _sigmoid(r + biases[1:])
        c, carry = _scan(f, a - f * a, carry, reverse)
        through = r * dy
        gate = r * (dy - through) * (c - x)
        dx[row, tile] = (dy - through).astype(dx.dtype)
        dr[row, tile] = gate.astype(dr.dtype)
        sums[1] += sum(_groups(gate, reverse))
        kept[0, tile], kept[1, tile], kept[2, tile] = f, through, c - a
    carry = jnp.zeros_like(carry)
    for tile in _tiles(dh.shape[1], not reverse):
        f, through, ahead = kept[0, tile], kept[1, tile], kept[2, tile]  # c_t - a_t = f_t (c_{t-1} - a_t)
        before = carry
        p, carry = _scan(f, f * through, carry, not reverse)
        d = through + _delay(p, before, not reverse) - p
        gate = ahead * d
        da[row, tile] = d.astype(da.dtype)
        df[row, tile] = gate.astype(df.dtype)
        sums[0] += sum(_groups(gate, reverse))


def _tiles(steps, reverse):
    starts = range(0, steps, TILE)
    return [pl.ds(start, TILE) for start in (reversed(starts) if reverse else starts)]


def _sigmoid(x):
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _groups(x, reverse):
    groups = [x[start : start + STEPS] for start in range(0, TILE, STEPS)]
    return groups[::-1] if reverse else groups


def _whole(groups, reverse):
    return jnp.concatenate(groups[::-1] if reverse else groups, axis=0)


def _scan(decay, inputs, carry, reverse):
    """States [16, O] of c_t = decay_t c_{t-1} + inputs_t from c = carry [1, O], and the last one."""
    states = []
    for f, c in zip(_groups(decay, reverse), _groups(inputs, reverse)):
        first = _step(f, reverse) == 0
        c = c + jnp.where(first, f * carry, 0.0)
        f = jnp.where(first, 0.0, f)
        for distance in (1, 2, 4):
            c = c + f * _roll(c, distance, reverse)
            f = f * _roll(f, distance, reverse)
        carry = c[:1] if reverse else c[-1:]
        states.append(c)
    return _whole(states, reverse), carry


def _delay(states, carry, reverse):
    """The state before each of `states` [16, O]; carry [1, O] before the first."""
    found = []
    for c in _groups(states, reverse):
        found.append(jnp.where(_step(c, reverse) == 0, carry, _roll(c, 1, reverse)))
        carry = c[:1] if reverse else c[-1:]
    return _whole(found, reverse)


def _step(x, reverse):
    step = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    return STEPS - 1 - step if reverse else step


def _roll(x, distance, reverse):
    return pltpu.roll(x, STEPS - distance if reverse else distance, 0)
