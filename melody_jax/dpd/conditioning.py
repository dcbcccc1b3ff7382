"""The conditions of the network: the angle of every frame and the semantic tokens (MeLoDy, section 4.2), perhaps the prompt."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.nn.dense import Dense, Embed
from melody_jax.nn.norm import RMSNorm
from melody_jax.shapes import Array, Float, Int


class MLP(nn.Module):
    """MLP(x) = GELU(RMSNorm(x W1 + b1)) W2 + b2.

    Attributes:
      hidden: width of x W1.
      features: width of the result.
      dtype: compute dtype.
      param_dtype: dtype of the parameters.
    """

    hidden: int
    features: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        inner = Dense(self.hidden, ("embed", "mlp"), name="in", **dtypes)(x)
        inner = jax.nn.gelu(RMSNorm(param_dtype=self.param_dtype, name="norm")(inner))
        return Dense(self.features, ("mlp", "embed"), name="out", **dtypes)(inner)


class AngleEmbedding(nn.Module):
    """E_delta = MLP(cos(delta) (x) e_start + sin(delta) (x) e_end) with learnt e_start, e_end.

    The two vectors are mixed in float32: in bfloat16 all small angles would look alike.

    Attributes:
      embedding: width of e_start and e_end (256 in the paper).
      features: width of E_delta.
      dtype: compute dtype of the MLP.
      param_dtype: dtype of the parameters.
    """

    embedding: int
    features: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, angles: Float[Array, "B L"]) -> Float[Array, "B L H"]:
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("norm",))
        start, end = (
            self.param(name, init, (self.embedding,), jnp.dtype(self.param_dtype)).astype(jnp.float32)[None, None]
            for name in ("start", "end")
        )
        mixed = jnp.cos(angles)[..., None] * start + jnp.sin(angles)[..., None] * end
        return MLP(self.features, self.features, self.dtype, self.param_dtype, name="mlp")(mixed)


class TokenEmbedding(nn.Module):
    """E_ST = MLP(lookup(tokens)), where a moment has several tokens (levels of residual codes) of the sum of their rows.

    The lookup starts small: the norm inside the MLP makes its scale free, and so the optimiser's steps are large beside it.

    Attributes:
      codes: size of the semantic vocabulary, all levels together.
      features: width of E_ST.
      levels: R, tokens of a moment.
      dtype: compute dtype.
      param_dtype: dtype of the parameters.
    """

    codes: int
    features: int
    levels: int = 1
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Int[Array, "B W"], prompt: Float[Array, "B H"] | None = None) -> Float[Array, "B N H"]:
        """Tokens [B, N R], the R of a moment side by side, to one vector for each moment; the sums know the prompt."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = nn.initializers.normal(0.05)
        x = Embed(self.codes, self.features, ("codes", "embed"), embedding_init=init, name="lookup", **dtypes)(tokens)
        x = jnp.sum(x.reshape(x.shape[0], -1, self.levels, self.features), axis=2)
        if prompt is not None:
            x = x + prompt[:, None]
        return MLP(self.features, self.features, self.dtype, self.param_dtype, name="mlp")(x)


class PromptEmbedding(nn.Module):
    """The sum of a learnt vector for every id of the language model's condition; 0 before training.

    Attributes:
      vocabulary: of the ids, with controls; conditions without them are read as well.
      features: width of the vectors.
      dtype: compute dtype.
      param_dtype: dtype of the parameters.
    """

    vocabulary: Vocabulary
    features: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, condition: Int[Array, "B prefix"]) -> Float[Array, "B H"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        size, zeros = self.vocabulary.condition_size, nn.initializers.zeros
        lookup = Embed(size, self.features, ("input", "embed"), embedding_init=zeros, name="lookup", **dtypes)
        return jnp.sum(lookup(self.vocabulary.condition_rows(condition)), axis=1)
