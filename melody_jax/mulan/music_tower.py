"""MuLan's music tower: the Audio Spectrogram Transformer (Gong et al., 2021), as `ASTModel` of Hugging Face has it."""

import jax.numpy as jnp
from flax import linen as nn

from melody_jax import dsp
from melody_jax.mulan.config import MusicTowerConfig
from melody_jax.mulan.transformer import Transformer
from melody_jax.nn.dense import Dense
from melody_jax.nn.norm import LayerNorm
from melody_jax.shapes import Array, Float


def spectrogram(audio: Float[Array, "B T"], config: MusicTowerConfig, sample_rate: int) -> Float[Array, "B F M"]:
    """Normalised log-mel spectrogram, (x - mean) / (2 std) as in AST; F = 1 + T // hop. Float32: it takes logarithms."""
    x = dsp.log_mel(audio, sample_rate, config.fft, config.hop, config.mels)
    return (x - config.mean) / (2 * config.std)


class MusicTower(nn.Module):
    """Overlapping patches -> linear embedding -> [CLS], distillation token, patches -> transformer -> mean of the two.

    Patches are counted along time first, then along frequency. Positions are learned, one per patch of a spectrogram of
    `frames` frames; a shorter one uses the positions of its own patches.

    Attributes:
      config: shape of the tower.
      frames: F, the longest spectrogram.
      remat, fused_attention: see `Transformer`.
      dtype: of computation.
      param_dtype: of parameters.
    """

    config: MusicTowerConfig
    frames: int
    remat: str = "none"
    fused_attention: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B F M"], deterministic: bool = True) -> Float[Array, "B H"]:
        """Pooled state of normalised log-mel spectrograms.

        Raises:
          ValueError: the spectrogram is shorter than one patch or longer than `frames`.
        """
        c = self.config
        precision = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        high, wide = c.grid(x.shape[1])
        _, widest = c.grid(self.frames)
        if not 1 <= wide <= widest:
            raise ValueError(f"music tower: {x.shape[1]} frames; it takes {c.patch_time} to {self.frames} of them")
        patches = Dense(c.width, ("time", "embed"), name="patch_embedding", **precision)(self._patches(x))
        special = jnp.stack([self._vectors("cls_token"), self._vectors("distillation_token")])
        special_positions = self._vectors("special_positions", 2)
        positions = self._vectors("positions", high, widest)[:, :wide].reshape(high * wide, c.width)
        patches = patches + positions[None].astype(self.dtype)
        special = jnp.broadcast_to((special + special_positions)[None].astype(self.dtype), (x.shape[0], 2, c.width))
        y = Transformer(
            c.layers,
            c.heads,
            c.mlp,
            True,
            c.norm_eps,
            c.dropout,
            c.activation,
            self.remat,
            c.unroll,
            self.fused_attention,
            name="encoder",
            **precision,
        )(jnp.concatenate([special, patches], axis=1), None, deterministic)
        # Only the two special tokens are read, so only they are normalised.
        y = LayerNorm(c.norm_eps, param_dtype=self.param_dtype, name="norm")(y[:, :2])
        return jnp.mean(y, axis=1)

    def _patches(self, x: Float[Array, "B F M"]) -> Float[Array, "B patches I"]:
        """[B, patches, patch_frequency * patch_time], both flattened with time running fastest."""
        c = self.config
        bands = dsp.frame(x, c.patch_frequency, c.stride_frequency)  # [B, F, high, patch_frequency]
        both = dsp.frame(jnp.moveaxis(bands, 1, -1), c.patch_time, c.stride_time)  # [B, high, pf, wide, pt]
        both = jnp.swapaxes(both, 2, 3)
        return both.reshape(x.shape[0], both.shape[1] * both.shape[2], c.patch_frequency * c.patch_time)

    def _vectors(self, name: str, *shape: int) -> Array:
        """Learned vectors [*shape, H]."""
        init = nn.with_logical_partitioning(nn.initializers.truncated_normal(0.02), ("time",) * len(shape) + ("embed",))
        return self.param(name, init, (*shape, self.config.width), jnp.dtype(self.param_dtype))
