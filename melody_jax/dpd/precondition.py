"""What the best linear predictor knows is given to the network; the network adds what only it can know.

Preconditioning as in EDM (Karras et al., 2022, section 5), with the covariance of whole patches in the place of one
deviation, and with what the semantic tokens say on average in the place of zero. Frame t of a clip with tokens c_1 .. c_N
is expected at

    m_t = mean + own[c_n(t)] + 1/N sum_n clip[c_n]

n(t) being the token that sounds at t. For a patch z with expectation m and covariance U diag(lambda) U^T, noisy with
white noise, the projection

    q = U^T (z_delta - cos m)     has variances     var = cos^2 lambda + sin^2

and the least-squares linear predictor of v = cos eps - sin z, per component, and its error are

    cos sin (1 - lambda) / var  q  -  sin U^T m          lambda / var

The network F sees q / sqrt(var), of unit variance at every angle, and predicts the error in units of its deviation:

    v = U (cos sin (1 - lambda) / var  q  +  sqrt(lambda / var) F)  -  sin m

so that F = 0 is the best linear predictor already, given the tokens; a clip whose condition is dropped has m = mean and the
covariance without tokens, U and lambda of its own. For m = 0 and lambda = 1 it is v = F of z_delta, rotated to and fro.
Process, loss and sampler are those of the publication.

Components that nothing predicts (phases) are noise to the network, and drown what it could learn of the others. With `rank`
= R it sees and predicts the first R components only, F = 0 for the rest.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from melody_jax.shapes import Array, Bool, Float, Int

FLOOR = 1e-6  # of variances, relative to the largest: what latents hardly use is not blown up
SHRINKAGE = 20.0  # of the ridge regression: tokens at which half of what they say is believed


class LinearPredictor(nn.Module):
    """The map around the network. The parameters are measured (`measure`), never trained. Float32.

    Attributes:
      codes: size of the semantic vocabulary.
      frames_per_token: latent frames per semantic token.
      patch: P, frames per patch.
      rank: R, the components that the network sees and predicts; 0 for all C.
    """

    codes: int
    frames_per_token: int
    patch: int
    rank: int = 0

    @nn.compact
    def __call__(
        self,
        noisy: Float[Array, "B F C"],
        angles: Float[Array, "B F"],
        tokens: Int[Array, "B N"],
        keep: Bool[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B F R"], Callable[[Array], Array]]:
        """(the network's input, its output [B, F, R] -> velocity [B, F, C]), C = P D values of a patch."""
        width = noisy.shape[-1]
        zeros, ones = nn.initializers.zeros, nn.initializers.ones

        def measured(name: str, init: Callable, *shape: int) -> Array:
            init = nn.with_logical_partitioning(init, (None,) * len(shape))
            return self.param(name, init, shape, jnp.float32)

        def identity(_, shape: tuple[int, int], dtype: Any) -> Array:
            return jnp.eye(*shape, dtype=dtype)

        channels = width // self.patch
        mean, own = measured("mean", zeros, channels), measured("own", zeros, self.codes, channels)
        clip = measured("clip", zeros, self.codes, channels)
        variance, axes = measured("variance", ones, width), measured("axes", identity, width, width)
        told_variance, told_axes = measured("told_variance", ones, width), measured("told_axes", identity, width, width)

        told = own[tokens] + jnp.mean(clip[tokens], axis=1, keepdims=True)
        if keep is None:
            variance, axes = told_variance[None], told_axes[None]
        else:
            told = jnp.where(keep[:, None, None], told, 0.0)
            variance = jnp.where(keep[:, None], told_variance[None], variance[None])
            axes = jnp.where(keep[:, None, None], told_axes[None], axes[None])
        token = jnp.minimum(jnp.arange(noisy.shape[1] * self.patch) // self.frames_per_token, tokens.shape[1] - 1)
        expected = (mean[None, None] + told[:, token]).reshape(noisy.shape)

        cos, sin = jnp.cos(angles)[..., None], jnp.sin(angles)[..., None]
        projected = jnp.matmul(noisy.astype(jnp.float32) - cos * expected, axes)
        variance = variance[:, None]
        total = jnp.square(cos) * variance + jnp.square(sin)
        linear = cos * sin * (1.0 - variance) / total * projected

        def velocity(out: Array) -> Array:
            out = jnp.pad(out.astype(jnp.float32), ((0, 0), (0, 0), (0, width - out.shape[-1])))
            return jnp.matmul(linear + jnp.sqrt(variance / total) * out, axes.swapaxes(1, 2)) - sin * expected

        return (projected / jnp.sqrt(total))[..., : self.rank or width], velocity


def measure(
    latents: Float[np.ndarray, "n L D"],
    tokens: Int[np.ndarray, "n N"],
    codes: int,
    patch: int,
    envelope_channels: int = 0,
) -> dict[str, Float[np.ndarray, "..."]]:
    """The parameters of LinearPredictor from clips of normalised latents and their tokens, L = N times frames per token."""
    mean = latents.mean((0, 1), dtype=np.float64)
    centred = latents - mean
    own, clip = _token_tables(centred, tokens, codes)
    told = own[tokens] + clip[tokens].mean(1, keepdims=True)
    rest = centred - np.repeat(told, latents.shape[1] // tokens.shape[1], axis=1)
    variance, axes = _spectrum(centred, patch, envelope_channels)
    told_variance, told_axes = _spectrum(rest, patch, envelope_channels)
    found = {"mean": mean, "own": own, "clip": clip, "variance": variance, "axes": axes}
    found |= {"told_variance": told_variance, "told_axes": told_axes}
    return {name: value.astype(np.float32) for name, value in found.items()}


def _token_tables(
    centred: Float[np.ndarray, "n L D"], tokens: Int[np.ndarray, "n N"], codes: int
) -> tuple[Float[np.ndarray, "V D"], Float[np.ndarray, "V D"]]:
    """(own, clip): ridge regression of the mean latents of each token on its code and on the shares of codes in its clip."""
    clips, count = tokens.shape
    x = centred.reshape(clips, count, -1, centred.shape[-1]).mean(2)
    counts = np.stack([np.bincount(row, minlength=codes) for row in tokens]).astype(np.float64)
    shares = counts / count
    own_own, own_clip, clip_clip = np.diag(counts.sum(0)), counts.T @ shares, count * shares.T @ shares
    products = np.block([[own_own, own_clip], [own_clip.T, clip_clip]])
    own_x = np.zeros((codes, x.shape[-1]))
    np.add.at(own_x, tokens, x)
    targets = np.concatenate([own_x, shares.T @ x.sum(1)])
    own, clip = np.split(np.linalg.solve(products + SHRINKAGE * np.eye(2 * codes), targets), 2)
    return own, clip


def _spectrum(
    centred: Float[np.ndarray, "n L D"], patch: int, envelope_channels: int
) -> tuple[Float[np.ndarray, "G"], Float[np.ndarray, "G G"]]:
    """(lambda, U) of all patches of P frames of latents of mean 0.

    Components come with falling variance; where the autoencoder has envelope channels (the first ones) those of the
    envelopes come first, and covariances between envelopes and other channels, which are nearly none, are left out.
    """
    frames, width = centred.shape[1:]
    starts = range(0, frames - patch + 1, max(patch // 2, 1))
    covariance, count = np.zeros((patch * width, patch * width)), 0
    for start in starts:
        rows = centred[:, start : start + patch].reshape(len(centred), -1)
        covariance += rows.T @ rows
        count += len(rows)
    covariance /= count
    channels = np.tile(np.arange(width), patch)
    variances, columns = [], []
    for group in (channels < envelope_channels, channels >= envelope_channels):
        variance, axes = np.linalg.eigh(covariance[np.ix_(group, group)])
        whole = np.zeros((len(channels), len(variance)))
        whole[group] = axes
        variances.append(variance[::-1])
        columns.append(whole[:, ::-1])
    variance = np.concatenate(variances)
    return np.maximum(variance, FLOOR * variance.max()), np.concatenate(columns, axis=1)
