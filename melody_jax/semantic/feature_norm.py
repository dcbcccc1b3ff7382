"""Normalisation between the encoder's hidden states and k-means, whose distances weigh channels by their variance."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from melody_jax.nn.measured import identity, measured
from melody_jax.semantic.config import SemanticConfig
from melody_jax.shapes import Array, Float


class FeatureNorm(nn.Module):
    """One of SemanticConfig.feature_norm. Float32. Its values are measured (see `calibrate`)."""

    kind: str
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B N H"]) -> Float[Array, "B N O"]:
        if self.kind == "none":
            return x
        if self.kind == "layer":
            x = x - jnp.mean(x, axis=-1, keepdims=True)
            return x / jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-5)
        x = x - measured(self, "mean", nn.initializers.zeros, x.shape[-1:], ("embed",))[None, None]
        if self.kind == "standard":
            return x * measured(self, "scale", nn.initializers.ones, x.shape[-1:], ("embed",))[None, None]
        return jnp.matmul(x, measured(self, "map", identity, (x.shape[-1], self.features), ("embed", None)))


def moments(x: Float[Array, "B N H"]) -> dict[str, Array]:
    """Sums over frames that `calibrate` needs; those of several batches may be added up."""
    flat = x.reshape(-1, x.shape[-1])
    return {"count": jnp.float32(flat.shape[0]), "sum": jnp.sum(flat, axis=0), "products": jnp.matmul(flat.T, flat)}


def calibrate(moments: Mapping[str, Any], config: SemanticConfig) -> dict[str, np.ndarray]:
    """The values of FeatureNorm from the summed `moments` of hidden states; {} where it has none.

    "standard" divides every channel by its standard deviation, "whiten" turns to the principal axes first. Deviations
    under a thousandth of the largest count as that, lest noise be blown up.
    """
    count = np.asarray(moments["count"], np.float64)
    mean = np.asarray(moments["sum"], np.float64) / count
    covariance = np.asarray(moments["products"], np.float64) / count - np.outer(mean, mean)
    if config.feature_norm == "standard":
        variance = np.diag(covariance)
        scale = 1.0 / np.sqrt(np.maximum(variance, 1e-6 * variance.max()))
        return {"mean": mean.astype(np.float32), "scale": scale.astype(np.float32)}
    if config.feature_norm == "whiten":
        variance, axes = np.linalg.eigh(covariance)
        order = np.argsort(variance)[::-1][: config.feature_width]
        scale = np.sqrt(np.maximum(variance[order], 1e-6 * variance.max()))
        return {"mean": mean.astype(np.float32), "map": (axes[:, order] / scale[None, :]).astype(np.float32)}
    return {}
