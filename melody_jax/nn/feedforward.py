"""Position-wise feed-forward layers."""

import functools

import jax
from flax import linen as nn

from melody_jax.nn.dense import Dense
from melody_jax.shapes import Array, Float

ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class FeedForward(nn.Module):
    """x -> act(x W_in) W_out, or for "swiglu" (silu(x W_gate) * x W_in) W_out (Shazeer, 2020). Width is kept.

    Attributes:
      hidden: inner width.
      activation: "gelu" (erf), "gelu_tanh", "relu", "silu" or "swiglu".
      use_bias: biases on all maps.
      dtype: compute dtype.
      param_dtype: dtype of the parameters.
    """

    hidden: int
    activation: str = "gelu"
    use_bias: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "... H"]) -> Float[Array, "... H"]:
        dense = functools.partial(Dense, use_bias=self.use_bias, dtype=self.dtype, param_dtype=self.param_dtype)
        inner = dense(self.hidden, ("embed", "mlp"), name="in")(x)
        if self.activation == "swiglu":
            inner = jax.nn.silu(dense(self.hidden, ("embed", "mlp"), name="gate")(x)) * inner
        else:
            inner = ACTIVATIONS[self.activation](inner)
        return dense(x.shape[-1], ("mlp", "embed"), name="out")(inner)
