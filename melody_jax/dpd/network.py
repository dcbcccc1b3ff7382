"""The dual-path diffusion network v(z_noisy; {tokens, delta}) (MeLoDy, section 4.2)."""

import jax.numpy as jnp
from flax import linen as nn

from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.dpd import segments
from melody_jax.dpd.blocks import DualPathBlock, merge_factor
from melody_jax.dpd.conditioning import AngleEmbedding, PromptEmbedding, TokenEmbedding
from melody_jax.dpd.config import DPDConfig
from melody_jax.geometry import Geometry
from melody_jax.nn.dense import Dense
from melody_jax.nn.norm import RMSNorm
from melody_jax.nn.remat import POLICIES
from melody_jax.shapes import Array, Bool, Float, Int


class DPD(nn.Module):
    """Velocity of noisy latents under semantic tokens, for any number of frames.

    The blocks are written out, not scanned: K_MS differs from each block to the next (64, 32, 16, 8, 4, 8, 16, 32 for
    N = 8), and a scan over a switch of the K_MS compiles one coarse path per distinct K_MS anyway and keeps the
    residuals of all of them for every block. Depth costs little compile time: a training step of the tiny shape took 27
    CPU-seconds to compile with N = 2 and 32 with N = 4.

    Attributes:
      config: shape of the network.
      geometry: latent channels, semantic codes and latent frames per token.
      silent: whether its output is 0 before training, for a module that adds something to it.
    """

    config: DPDConfig
    geometry: Geometry
    silent: bool = False

    @nn.compact
    def __call__(
        self,
        noisy: Float[Array, "B L D"],
        angles: Float[Array, "B L"],
        tokens: Int[Array, "B W"],
        keep: Bool[Array, "B"] | None = None,
        condition: Int[Array, "B prefix"] | None = None,
    ) -> Float[Array, "B L D"]:
        """v of z_delta.

        Args:
          noisy: z_delta, in units of latents / config.data_std.
          angles: delta of every frame; 0 for frames that are known.
          tokens: semantic tokens, R for each of N moments (W = N R); those of moment n sound during frames
            [n, n + 1) * geometry.frames_per_token.
          keep: False where the condition is dropped: cross-attention then falls back to self-attention and the mean of
            E_ST to 0, so that the result does not depend on the tokens. None keeps all, and is cheaper than all True.
          condition: the language model's (`Vocabulary.condition`), read where `config.prompt` is set; nothing is known of the
            clip if None.

        Returns:
          The velocity, float32.
        """
        config, geometry = self.config, self.geometry
        dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        angle_embedding = AngleEmbedding(config.angle_width, config.width, name="angle", **dtypes)(angles)
        token_embedding = TokenEmbedding(
            geometry.semantic_size, config.width, geometry.semantic_levels, name="tokens", **dtypes
        )(tokens, self._prompt(condition, tokens.shape[0]))
        inside = segments.pad(jnp.ones_like(angle_embedding[:1, :, :1]), config.segment)
        modulation = self._modulation(angle_embedding, token_embedding, inside, keep)

        x = Dense(config.width, ("input", "embed"), use_bias=False, name="in", **dtypes)(noisy) + angle_embedding
        x = segments.cut(RMSNorm(param_dtype=config.param_dtype, name="in_norm")(x), config.segment)
        block_class = DualPathBlock
        if config.remat != "none":
            block_class = nn.remat(DualPathBlock, policy=POLICIES[config.remat])
        for i in range(1, config.blocks + 1):
            factor = merge_factor(i, config.blocks)
            block = block_class(config, geometry.frames_per_token, factor, name=f"block_{i}")
            x = block(x, token_embedding, modulation, inside, keep)
        x = RMSNorm(param_dtype=config.param_dtype, name="norm")(segments.overlap_add(x, noisy.shape[1]))
        init = nn.initializers.zeros if self.silent else nn.initializers.lecun_normal()
        out = Dense(noisy.shape[2], ("embed", "conv_out"), False, kernel_init=init, name="out", **dtypes)(x)
        return out.astype(jnp.float32)

    def _prompt(self, condition: Int[Array, "B prefix"] | None, rows: int) -> Float[Array, "B H"] | None:
        """What the prompt adds to the embedding of every moment's tokens."""
        if not self.config.prompt:
            return None
        vocabulary, config = Vocabulary.of(self.geometry, controls=True), self.config
        if condition is None:
            condition = vocabulary.without_condition(jnp.zeros((rows, vocabulary.prefix), jnp.int32))
        dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        return PromptEmbedding(vocabulary, config.width, name="prompt", **dtypes)(condition)

    def _modulation(
        self,
        angle_embedding: Float[Array, "B L H"],
        token_embedding: Float[Array, "B N H"],
        inside: Float[Array, "1 padded 1"],
        keep: Array | None,
    ) -> Float[Array, "..."]:
        """E_delta + mean E_ST per frame [B, padded, H], or with E_delta averaged over a segment's frames [B, S, 1, H]."""
        mean = jnp.mean(token_embedding, axis=1)
        if keep is not None:
            mean = jnp.where(keep[:, None], mean, jnp.zeros_like(mean))
        if self.config.film == "frame":
            return segments.pad(angle_embedding + mean[:, None], self.config.segment)
        size = self.config.segment
        total = jnp.sum(segments.cut(angle_embedding, size), axis=2, keepdims=True)
        return total / jnp.sum(segments.fold(inside, size), axis=2, keepdims=True) + mean[:, None, None]
