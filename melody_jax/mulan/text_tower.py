"""MuLan's text tower: BERT (Devlin et al., 2019) without the pooler, as `BertModel` of Hugging Face has it."""

import jax.numpy as jnp
from flax import linen as nn

from melody_jax.mulan.config import TextTowerConfig
from melody_jax.mulan.transformer import Transformer
from melody_jax.nn.dense import Embed
from melody_jax.nn.norm import LayerNorm
from melody_jax.shapes import Array, Float, Int

PADDING = 0


class TextTower(nn.Module):
    """Word + position + type embeddings, LayerNorm, post-norm transformer, pooling; padding is attended to by nobody.

    Attributes:
      config: shape of the tower.
      remat, fused_attention: see `Transformer`.
      dtype: of computation.
      param_dtype: of parameters.
    """

    config: TextTowerConfig
    remat: str = "none"
    fused_attention: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self):
        c = self.config
        precision = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.word = Embed(c.vocabulary, c.width, **precision)
        self.position = Embed(c.positions, c.width, ("time", "embed"), **precision)
        self.type = Embed(c.types, c.width, ("time", "embed"), **precision)
        self.embedding_norm = LayerNorm(c.norm_eps, param_dtype=self.param_dtype)
        self.encoder = Transformer(
            c.layers,
            c.heads,
            c.mlp,
            False,
            c.norm_eps,
            activation=c.activation,
            remat=self.remat,
            unroll=c.unroll,
            fused_attention=self.fused_attention,
            **precision,
        )

    def states(self, tokens: Int[Array, "B W"]) -> Float[Array, "B W H"]:
        """The last hidden states, those of padding included (they mean nothing).

        Raises:
          ValueError: the text is longer than the tower's positions.
        """
        if tokens.shape[1] > self.config.positions:
            raise ValueError(f"text tower: {tokens.shape[1]} tokens, but only {self.config.positions} positions")
        x = (
            self.word(tokens)
            + self.position(jnp.arange(tokens.shape[1]))[None]
            + self.type(jnp.zeros((1, 1), jnp.int32))
        )
        return self.encoder(self.embedding_norm(x), (tokens != PADDING)[:, None, None, :])

    def __call__(self, tokens: Int[Array, "B W"]) -> Float[Array, "B H"]:
        """One vector per text: the first token's state, or the mean over all tokens but padding."""
        x = self.states(tokens)
        if self.config.pooling == "cls":
            return x[:, 0]
        weight = (tokens != PADDING).astype(jnp.float32)[:, :, None]
        mean = jnp.sum(x.astype(jnp.float32) * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1.0)
        return mean.astype(x.dtype)
