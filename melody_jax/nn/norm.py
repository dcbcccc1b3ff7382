"""Normalisation over the last axis, computed in float32 whatever the compute dtype: variances underflow in bfloat16."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from melody_jax.nn.feedforward import ACTIVATIONS
from melody_jax.nn.kernels import layer_norm as kernel
from melody_jax.parallel import activations
from melody_jax.shapes import Array, Float


def _over_last(vector: Array, x: Array) -> Array:
    return vector.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale (Zhang and Sennrich, 2019). Returns x's dtype."""

    eps: float = 1e-6
    axis: str = "norm"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "... H"]) -> Float[Array, "... H"]:
        ones = nn.with_logical_partitioning(nn.initializers.ones, (self.axis,))
        scale = self.param("scale", ones, (x.shape[-1],), jnp.dtype(self.param_dtype))
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return (wide * _over_last(scale, x)).astype(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * scale + bias (Ba et al., 2016). Returns x's dtype.

    Attributes:
      eps: added to the variance.
      axis: logical axis of scale and bias.
      activation: what is applied to the result, a name of `nn.feedforward.ACTIVATIONS`; None for nothing.
      fused: with an activation, run the kernel of `nn/kernels/layer_norm.py` where it can: on TPUs.
      param_dtype: of scale and bias.
    """

    eps: float = 1e-5
    axis: str = "norm"
    param_dtype: str = "float32"
    activation: str | None = None
    fused: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... H"]) -> Float[Array, "... H"]:
        dtype = jnp.dtype(self.param_dtype)
        ones = nn.with_logical_partitioning(nn.initializers.ones, (self.axis,))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, (self.axis,))
        scale = self.param("scale", ones, (x.shape[-1],), dtype)
        bias = self.param("bias", zeros, (x.shape[-1],), dtype)
        if self.activation and self.fused and activations.kernels_run() and kernel.fits(x):
            return kernel.layer_norm(x, scale, bias, self.eps, self.activation)
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        y = (wide * _over_last(scale, x) + _over_last(bias, x)).astype(x.dtype)
        return ACTIVATIONS[self.activation](y) if self.activation else y
