"""The Simple Recurrent Unit (Lei et al., 2018, arXiv 1709.02755) without its cell-state peephole.

Without the peephole the gates do not see the state, so that

    c_t = f_t * c_{t-1} + (1 - f_t) * (W x_t)          f_t = sigmoid(W_f x_t + b_f)
    h_t = r_t * c_t + (1 - r_t) * x_t                  r_t = sigmoid(W_r x_t + b_r)

is a linear recurrence in c: it runs in log2(steps) parallel steps (associative scan) or in as many sequential ones, with the same
result. Where input and output widths differ the highway takes W_h x_t for x_t.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from melody_jax.nn.dense import Dense
from melody_jax.nn.kernels.recurrence import fits, gated_recurrence
from melody_jax.parallel import activations
from melody_jax.shapes import Array, Float


def _associative(decay: Array, inputs: Array, reverse: bool) -> Array:
    def combine(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    return jax.lax.associative_scan(combine, (decay, inputs), axis=decay.ndim - 2, reverse=reverse)[1]


def _sequential(decay: Array, inputs: Array, reverse: bool) -> Array:
    def step(state, now):
        state = now[0] * state + now[1]
        return state, state

    by_time = jnp.moveaxis(decay, -2, 0), jnp.moveaxis(inputs, -2, 0)
    _, states = jax.lax.scan(step, jnp.zeros_like(by_time[1][0]), by_time, reverse=reverse, unroll=STEPS)
    return jnp.moveaxis(states, 0, -2)


STEPS = 8  # taken in one iteration of a sequential loop: iterations cost time on TPUs, whose tiles have 8 rows
SCANS: dict[str, Callable[[Array, Array, bool], Array]] = {"associative": _associative, "sequential": _sequential}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def linear_recurrence(
    decay: Float[Array, "... steps H"],
    inputs: Float[Array, "... steps H"],
    reverse: bool = False,
    scan: str = "associative",
) -> Float[Array, "... steps H"]:
    """c_t = decay_t c_{t-1} + inputs_t from c = 0, along the axis before the last; from the end if `reverse`.

    Its gradient is the same recurrence in the other direction, g_t = dc_t + decay_{t+1} g_{t+1}, with d inputs_t = g_t
    and d decay_t = g_t c_{t-1}: written out, because the derivative of an associative scan stores all its levels.
    """
    return SCANS[scan](decay, inputs, reverse)


def _forward(decay, inputs, reverse, scan):
    states = SCANS[scan](decay, inputs, reverse)
    return states, (decay, states)


def _backward(reverse, scan, residuals, gradient):
    decay, states = residuals
    gradient = SCANS[scan](_delay(decay, not reverse), gradient, not reverse)
    return gradient * _delay(states, reverse), gradient


linear_recurrence.defvjp(_forward, _backward)


def _delay(x: Array, reverse: bool) -> Array:
    """x_{t-1} with a zero at the start; x_{t+1} with a zero at the end if `reverse`."""
    zero = jnp.zeros_like(x[..., :1, :])
    pieces = (x[..., 1:, :], zero) if reverse else (zero, x[..., :-1, :])
    return jnp.concatenate(pieces, axis=-2)


class SRULayer(nn.Module):
    """One SRU layer; both directions side by side on the last axis if `bidirectional`.

    Attributes: as of `SRU`.
    """

    features: int
    bidirectional: bool = False
    scan: str = "associative"
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "... steps I"]) -> Float[Array, "... steps O"]:
        width = self.features * (2 if self.bidirectional else 1)
        dense = functools.partial(Dense, width, ("embed", "mlp"), dtype=self.dtype, param_dtype=self.param_dtype)
        candidate = dense(use_bias=False, name="candidate")(x)
        forget, output = dense(name="forget"), dense(name="output")
        highway = x if x.shape[-1] == width else dense(use_bias=False, name="highway")(x)
        if self.scan == "fused" and activations.kernels_run() and fits(x.shape[-2], self.features):
            gates, biases = zip(forget.product_and_bias(x), output.product_and_bias(x))
            biases = jnp.stack(biases).astype(jnp.float32)
            return gated_recurrence(candidate, *gates, highway.astype(self.dtype), biases, self.features)
        scan = "associative" if self.scan == "fused" else self.scan
        forget, output = (jax.nn.sigmoid(gate(x).astype(jnp.float32)) for gate in (forget, output))
        # Float32 island: many decays multiply, and bfloat16 cannot tell a decay of 0.998 from 1.
        inputs = (1 - forget) * candidate.astype(jnp.float32)
        halves = [slice(0, self.features), slice(self.features, width)][: width // self.features]
        states = [
            linear_recurrence(forget[..., half], inputs[..., half], bool(direction), scan)
            for direction, half in enumerate(halves)
        ]
        state = jnp.concatenate(states, axis=-1)
        return (output * state + (1 - output) * highway.astype(jnp.float32)).astype(self.dtype)


class SRU(nn.Module):
    """A stack of SRU layers along the axis before the last.

    Attributes:
      features: width of each direction; the result is twice as wide if `bidirectional`.
      bidirectional: whether a second recurrence runs from the end to the start.
      layers: number of layers.
      scan: "associative" (parallel), "sequential", or "fused": on TPUs one pass over memory (`kernels/recurrence.py`)
        where `features` is a multiple of 128, otherwise "associative".
      dtype: compute dtype of the maps; the recurrence is float32.
      param_dtype: dtype of the parameters.
    """

    features: int
    bidirectional: bool = False
    layers: int = 1
    scan: str = "associative"
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "... steps I"]) -> Float[Array, "... steps O"]:
        for layer in range(self.layers):
            x = SRULayer(
                self.features, self.bidirectional, self.scan, self.dtype, self.param_dtype, name=f"layer_{layer}"
            )(x)
        return x
