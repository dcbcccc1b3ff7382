"""What the best linear predictor knows is given to the network; the network adds what only it can know.

Preconditioning as in EDM (Karras et al., 2022, section 5), with the covariance of the channels in the place of one
deviation, and with what the semantic tokens say on average in the place of zero. Frame t of a clip of N moments with tokens
c_n1 .. c_nR is expected at

    m_t = mean + sum_r own[c_n(t)r] + 1/N sum_nr clip[c_nr]

n(t) being the moment of frame t. For a frame z with expectation m and covariance U diag(lambda) U^T, noisy with
white noise, the projection

    q = U^T (z_delta - cos m)     has variances     var = cos^2 lambda + sin^2

and the least-squares linear predictor of v = cos eps - sin z, per component, and its error are

    cos sin (1 - lambda) / var  q  -  sin U^T m          lambda / var

The network F sees q / sqrt(var), of unit variance at every angle, and predicts the error in units of its deviation:

    v = U (cos sin (1 - lambda) / var  q  +  sqrt(lambda / var) F)  -  sin m

so that F = 0 is the best linear predictor already, given the tokens; a clip whose condition is dropped has m = mean and the
covariance without tokens, U and lambda of its own. For m = 0 and lambda = 1 it is v = F of z_delta, rotated to and fro.
Process, loss and sampler are those of the publication.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from melody_jax.dpd.config import DPDConfig
from melody_jax.dpd.network import DPD
from melody_jax.geometry import Geometry
from melody_jax.nn.measured import identity, measured
from melody_jax.shapes import Array, Bool, Float, Int

FLOOR = 1e-6  # of variances, relative to the largest: what latents hardly use is not blown up
SHRINKAGE = 20.0  # of the ridge regression: tokens at which half of what they say is believed


class Preconditioned(nn.Module):
    """The DPD with the linear predictor around it; called as the DPD is, whose parameters have the same names here.

    Attributes:
      config, geometry: see `DPD`.
    """

    config: DPDConfig
    geometry: Geometry

    def setup(self):
        sizes = self.geometry
        self.network = DPD(self.config, sizes, silent=True)  # training starts from the linear predictor
        nn.share_scope(self, self.network)
        self.linear = LinearPredictor(sizes.semantic_size, sizes.semantic_levels, sizes.frames_per_token)

    def __call__(
        self,
        noisy: Float[Array, "B L D"],
        angles: Float[Array, "B L"],
        tokens: Int[Array, "B W"],
        keep: Bool[Array, "B"] | None = None,
        condition: Int[Array, "B prefix"] | None = None,
    ) -> Float[Array, "B L D"]:
        """v of z_delta."""
        x, velocity = self.linear(noisy, angles, tokens, keep)
        return velocity(self.network(x, angles, tokens, keep, condition))


def model_of(config: DPDConfig, geometry: Geometry) -> DPD | Preconditioned:
    """The network that a configuration names."""
    return (Preconditioned if config.precondition == "linear" else DPD)(config, geometry)


class LinearPredictor(nn.Module):
    """The map around the network. Its values are measured (`measure`). Float32.

    Attributes:
      codes: size of the semantic vocabulary, all levels together.
      levels: tokens of a moment.
      frames_per_token: latent frames per semantic token.
    """

    codes: int
    levels: int
    frames_per_token: int

    @nn.compact
    def __call__(
        self,
        noisy: Float[Array, "B L D"],
        angles: Float[Array, "B L"],
        tokens: Int[Array, "B W"],
        keep: Bool[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B L D"], Callable[[Array], Array]]:
        """(the network's input, its output [B, L, D] -> velocity [B, L, D])."""
        width = noisy.shape[-1]
        zeros, ones = nn.initializers.zeros, nn.initializers.ones

        def found(name: str, init: Callable, *shape: int) -> Array:
            return measured(self, name, init, shape, (None,) * len(shape))

        mean, own, clip = (
            found("mean", zeros, width),
            found("own", zeros, self.codes, width),
            found("clip", zeros, self.codes, width),
        )
        variance, axes = found("variance", ones, width), found("axes", identity, width, width)
        told_variance, told_axes = found("told_variance", ones, width), found("told_axes", identity, width, width)

        own_tokens = jnp.sum(own[tokens].reshape(tokens.shape[0], -1, self.levels, width), axis=2)
        told = own_tokens + self.levels * jnp.mean(clip[tokens], axis=1, keepdims=True)
        if keep is None:
            variance, axes = told_variance[None], told_axes[None]
        else:
            told = jnp.where(keep[:, None, None], told, 0.0)
            variance = jnp.where(keep[:, None], told_variance[None], variance[None])
            axes = jnp.where(keep[:, None, None], told_axes[None], axes[None])
        token = jnp.minimum(jnp.arange(noisy.shape[1]) // self.frames_per_token, told.shape[1] - 1)
        expected = mean[None, None] + told[:, token]

        cos, sin = jnp.cos(angles)[..., None], jnp.sin(angles)[..., None]
        projected = jnp.matmul(noisy.astype(jnp.float32) - cos * expected, axes)
        variance = variance[:, None]
        total = jnp.square(cos) * variance + jnp.square(sin)
        linear = cos * sin * (1.0 - variance) / total * projected

        def velocity(out: Array) -> Array:
            rotated = linear + jnp.sqrt(variance / total) * out.astype(jnp.float32)
            return jnp.matmul(rotated, axes.swapaxes(1, 2)) - sin * expected

        return projected / jnp.sqrt(total), velocity


def measure(
    latents: Float[np.ndarray, "n L D"],
    tokens: Int[np.ndarray, "n W"],
    codes: int,
    levels: int = 1,
) -> dict[str, Float[np.ndarray, "..."]]:
    """The values of LinearPredictor from clips of normalised latents and their tokens, `levels` of each moment beside
    one another, L a multiple of the number of moments."""
    mean = latents.mean((0, 1), dtype=np.float64)
    centred = latents - mean
    moments = tokens.reshape(len(tokens), -1, levels)
    own, clip = _token_tables(centred, moments, codes)
    told = own[moments].sum(2) + clip[moments].sum(2).mean(1, keepdims=True)
    rest = centred - np.repeat(told, latents.shape[1] // moments.shape[1], axis=1)
    variance, axes = _spectrum(centred)
    told_variance, told_axes = _spectrum(rest)
    found = {"mean": mean, "own": own, "clip": clip, "variance": variance, "axes": axes}
    found |= {"told_variance": told_variance, "told_axes": told_axes}
    return {name: value.astype(np.float32) for name, value in found.items()}


def _token_tables(
    centred: Float[np.ndarray, "n L D"], moments: Int[np.ndarray, "n N R"], codes: int
) -> tuple[Float[np.ndarray, "codes D"], Float[np.ndarray, "codes D"]]:
    """(own, clip): ridge regression of the mean latents of each moment on its codes and on the shares of codes in its clip."""
    clips, count, levels = moments.shape
    x = centred.reshape(clips, count, -1, centred.shape[-1]).mean(2)
    counts = np.stack([np.bincount(row.ravel(), minlength=codes) for row in moments]).astype(np.float64)
    shares = counts / count
    own_own = np.zeros((codes, codes))
    for first in range(levels):
        for second in range(levels):
            np.add.at(own_own, (moments[..., first], moments[..., second]), 1.0)
    own_clip, clip_clip = counts.T @ shares, count * shares.T @ shares
    products = np.block([[own_own, own_clip], [own_clip.T, clip_clip]])
    own_x = np.zeros((codes, x.shape[-1]))
    for level in range(levels):
        np.add.at(own_x, moments[..., level], x)
    targets = np.concatenate([own_x, shares.T @ x.sum(1)])
    own, clip = np.split(np.linalg.solve(products + SHRINKAGE * np.eye(2 * codes), targets), 2)
    return own, clip


def _spectrum(centred: Float[np.ndarray, "n L D"]) -> tuple[Float[np.ndarray, "D"], Float[np.ndarray, "D D"]]:
    """(lambda, U) of latents of mean 0, components with falling variance."""
    rows = centred.reshape(-1, centred.shape[-1])
    variance, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    variance, axes = variance[::-1], axes[:, ::-1]
    return np.maximum(variance, FLOOR * variance.max()), axes
