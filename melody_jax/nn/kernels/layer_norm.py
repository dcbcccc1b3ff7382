"""LayerNorm and the activation behind it as one pass over memory, forwards and backwards.

    y = act(xhat scale + bias),    xhat = (x - mean) / sqrt(variance + eps)

XLA's programs read x once for each of the two moments and once for y. In the backward pass, where two means over channels
and two sums over rows are wanted, each of these computes the activation's slope again. Here a block of rows is read once,
in its dtype, and everything between is float32. The backward pass keeps x alone.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from melody_jax.nn.feedforward import ACTIVATIONS
from melody_jax.parallel import activations
from melody_jax.shapes import Array, Float

LANES = 128
SUBLANES = 8
ROWS = 256
"""Of a step of the grid: enough independent work to hide the time that a sum over lanes takes."""
WIDEST = 1024
"""Most channels of which the vector memory holds a step."""


def fits(x: Any) -> bool:
    """Whether the kernel can run: channels that fill lanes, and rows that fill a step."""
    return x.ndim == 3 and x.shape[2] % LANES == 0 and x.shape[2] <= WIDEST and x.shape[1] >= ROWS


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(
    x: Float[Array, "B T H"], scale: Float[Array, " H"], bias: Float[Array, " H"], eps: float, activation: str
) -> Float[Array, "B T H"]:
    """act(LayerNorm(x)) in x's dtype; `activation` is a name of `nn.feedforward.ACTIVATIONS`."""
    return _on_chips((x,), scale, bias, eps, activation)


def _forward(x, scale, bias, eps, activation):
    return layer_norm(x, scale, bias, eps, activation), (x, scale, bias)


def _backward(eps, activation, kept, gradient):
    x, scale, bias = kept
    dx, sums = _on_chips((x, gradient.astype(x.dtype)), scale, bias, eps, activation)
    d_scale, d_bias = jnp.sum(sums, (0, 2))
    return dx, d_scale.astype(scale.dtype), d_bias.astype(bias.dtype)


layer_norm.defvjp(_forward, _backward)


def _on_chips(arrays: tuple[Array, ...], scale: Array, bias: Array, eps: float, activation: str) -> Any:
    """`_call` on each chip's share of the batch."""
    rows, sums = ("batch", None, None), ("batch", None, None, None)
    outputs = (rows, sums) if len(arrays) == 2 else rows
    vectors = jnp.stack([scale, bias]).astype(jnp.float32)
    run = functools.partial(_share, eps, activation)
    return activations.per_chip(run, ((None, None), *[rows] * len(arrays)), outputs)(vectors, *arrays)


def _share(eps: float, activation: str, vectors: Array, *arrays: Array) -> Any:
    """`_call` on one chip's rows. Rows that fill sublanes are read with time outermost, which is how convolutions of so
    many leave them (`nn/conv.py`): another order is a copy."""
    rows, width, channels = arrays[0].shape
    if rows % SUBLANES:
        return _call(eps, activation, vectors, *arrays)

    def as_before(y: Array) -> Array:
        return y.reshape(width, rows, channels).swapaxes(0, 1)

    out = _call(eps, activation, vectors, *[x.swapaxes(0, 1).reshape(1, -1, channels) for x in arrays])
    return (as_before(out[0]), out[1]) if len(arrays) == 2 else as_before(out)


def _call(eps: float, activation: str, vectors: Array, *arrays: Array) -> Any:
    """y of x, or, given x and the gradient of y, the gradient of x and [B, 2, 8, H], whose sum over the first and the
    third axis is the gradients of scale and bias."""
    x, backward = arrays[0], len(arrays) == 2
    batch, width, channels = x.shape
    grid = (batch, pl.cdiv(width, ROWS))
    block = pl.BlockSpec((None, ROWS, channels), lambda b, t: (b, t, 0))
    whole = pl.BlockSpec((2, channels), lambda b, t: (0, 0))
    sums = pl.BlockSpec((None, 2, SUBLANES, channels), lambda b, t: (b, 0, 0, 0))
    out = jax.ShapeDtypeStruct(x.shape, x.dtype)
    sums_out = jax.ShapeDtypeStruct((batch, 2, SUBLANES, channels), jnp.float32)
    kernel = functools.partial(_backward_kernel, width) if backward else _forward_kernel
    return pl.pallas_call(
        functools.partial(kernel, eps, _function(activation)),
        grid=grid,
        in_specs=[whole, *[block] * len(arrays)],
        out_specs=[block, sums] if backward else block,
        out_shape=[out, sums_out] if backward else out,
        cost_estimate=pl.CostEstimate(
            flops=(60 if backward else 30) * x.size,
            transcendentals=(2 if backward else 1) * x.size,
            bytes_accessed=(len(arrays) + 1) * x.size * x.dtype.itemsize,
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=not activations.on_tpu(),
        name=f"layer_norm_{'backward' if backward else 'forward'}_{math.prod(grid)}_steps",
    )(vectors, *arrays)


def _function(activation: str) -> Callable[[Array], Array]:
    """The activation of float32; a kernel has erf and no erfc, which JAX's GELU is made of."""
    if activation == "gelu":
        return lambda x: 0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))
    return ACTIVATIONS[activation]


def _forward_kernel(eps: float, act: Callable, vectors: Any, x: Any, out: Any) -> None:
    scale, bias = vectors[0:1], vectors[1:2]
    normed, _ = _normed(x[...].astype(jnp.float32), eps)
    out[...] = act(normed * scale + bias).astype(out.dtype)


def _backward_kernel(
    width: int, eps: float, act: Callable, vectors: Any, x: Any, gradient: Any, out: Any, sums: Any
) -> None:
    scale, bias, step = vectors[0:1], vectors[1:2], pl.program_id(1)

    @pl.when(step == 0)
    def _() -> None:
        sums[...] = jnp.zeros_like(sums)

    wide, g = x[...].astype(jnp.float32), gradient[...].astype(jnp.float32)
    if width % ROWS:  # rows beyond the last hold arbitrary values: set to zero, they add nothing
        inside = step * ROWS + jax.lax.broadcasted_iota(jnp.int32, (ROWS, 1), 0) < width
        wide, g = (jnp.where(inside, a, 0.0) for a in (wide, g))
    normed, inverse = _normed(wide, eps)
    (g,) = jax.vjp(act, normed * scale + bias)[1](g)
    for index, term in enumerate((g * normed, g)):
        sums[index] += jnp.sum(term.reshape(ROWS // SUBLANES, SUBLANES, -1), axis=0)
    g = g * scale
    along = jnp.mean(g * normed, axis=1, keepdims=True)
    out[...] = (inverse * (g - jnp.mean(g, axis=1, keepdims=True) - normed * along)).astype(out.dtype)


def _normed(x: Array, eps: float) -> tuple[Array, Array]:
    """xhat, and what it was multiplied by."""
    x = x - jnp.mean(x, axis=1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=1, keepdims=True) + eps)
    return x * inverse, inverse
