"""What the best linear predictor knows is given to the network; the network adds what only it can know.

Preconditioning as in EDM (Karras et al., 2022, section 5), with the covariance of whole patches in the place of one
deviation. For a patch z with mean mu and covariance U diag(lambda) U^T, noisy with white noise, the projection

    q = U^T (z_delta - cos mu)     has variances     var = cos^2 lambda + sin^2

and the least-squares linear predictor of v = cos eps - sin z, per component, and its error are

    cos sin (1 - lambda) / var  q  -  sin U^T mu          lambda / var

The network F sees q / sqrt(var), of unit variance at every angle, and predicts the error in units of its deviation:

    v = U (cos sin (1 - lambda) / var  q  +  sqrt(lambda / var) F)  -  sin mu

so that F = 0 is the best linear predictor already. For mu = 0 and lambda = 1 it is v = F of z_delta, rotated to and fro.
Process, loss and sampler are those of the publication.

Components that nothing predicts (phases) are noise to the network, and drown what it could learn of the others. With `rank`
= R it sees and predicts the first R components only, F = 0 for the rest.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from melody_jax.shapes import Array, Float

FLOOR = 1e-6  # of variances, relative to the largest: what latents hardly use is not blown up


class LinearPredictor(nn.Module):
    """The map around the network. The parameters are measured (see `patch_moments`), never trained. Float32.

    Attributes:
      rank: R, the components that the network sees and predicts; 0 for all C.
    """

    rank: int = 0

    @nn.compact
    def __call__(
        self, noisy: Float[Array, "B F C"], angles: Float[Array, "B F"]
    ) -> tuple[Float[Array, "B F R"], Callable[[Array], Array]]:
        """(the network's input, its output [B, F, R] -> velocity [B, F, C]), C = P D values of a patch."""
        width = noisy.shape[-1]
        logical = nn.with_logical_partitioning
        mean = self.param("mean", logical(nn.initializers.zeros, (None,)), (width,), jnp.float32)
        variance = self.param("variance", logical(nn.initializers.ones, (None,)), (width,), jnp.float32)
        identity = logical(lambda _, shape, dtype: jnp.eye(*shape, dtype=dtype), (None, None))
        axes = self.param("axes", identity, (width, width), jnp.float32)
        mean, variance = mean[None, None], variance[None, None]
        cos, sin = jnp.cos(angles)[..., None], jnp.sin(angles)[..., None]
        projected = jnp.matmul(noisy.astype(jnp.float32) - cos * mean, axes)
        total = jnp.square(cos) * variance + jnp.square(sin)
        linear = cos * sin * (1.0 - variance) / total * projected

        def velocity(out: Array) -> Array:
            out = jnp.pad(out.astype(jnp.float32), ((0, 0), (0, 0), (0, width - out.shape[-1])))
            return jnp.matmul(linear + jnp.sqrt(variance / total) * out, axes.T) - sin * mean

        return (projected / jnp.sqrt(total))[..., : self.rank or width], velocity


def patch_moments(
    mean: Float[np.ndarray, "D"],
    autocovariance: Float[np.ndarray, "J D D"],
    patch: int,
    scale: float,
    envelope_channels: int = 0,
) -> Mapping[str, Float[np.ndarray, "..."]]:
    """The parameters of LinearPredictor for patches of P = `patch` <= J frames of latents / `scale`.

    Components come with falling variance; where the autoencoder has envelope channels those of the envelopes come first,
    and covariances between envelopes and other channels, which are nearly none, are left out.

    Args:
      mean: of the latents of one frame.
      autocovariance: E[(z_t - mean) (z_{t + j} - mean)^T] for j = 0 .. J-1 (`autoencoder.moments`).
      envelope_channels: how many of the D channels, the first ones, are envelopes.
    """
    blocks = [
        [autocovariance[j - i] if j >= i else autocovariance[i - j].T for j in range(patch)] for i in range(patch)
    ]
    covariance = np.block(blocks).astype(np.float64) / scale**2
    covariance = 0.5 * (covariance + covariance.T)
    channels = np.tile(np.arange(len(mean)), patch)
    variances, columns = [], []
    for group in (channels < envelope_channels, channels >= envelope_channels):
        variance, axes = np.linalg.eigh(covariance[np.ix_(group, group)])
        whole = np.zeros((len(channels), len(variance)))
        whole[group] = axes
        variances.append(variance[::-1])
        columns.append(whole[:, ::-1])
    variance = np.concatenate(variances)
    variance = np.maximum(variance, FLOOR * variance.max())
    moments = {"mean": np.tile(mean, patch) / scale, "variance": variance, "axes": np.concatenate(columns, axis=1)}
    return {name: value.astype(np.float32) for name, value in moments.items()}
