"""The transformer encoder that both towers are: pre-norm for AST (a ViT), post-norm for BERT."""

from flax import linen as nn

from melody_jax.nn.attention import Attention
from melody_jax.nn.feedforward import FeedForward
from melody_jax.nn.norm import LayerNorm
from melody_jax.nn.remat import POLICIES
from melody_jax.shapes import Array, Bool, Float


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward, each with a residual and a LayerNorm.

    Attributes:
      heads: attention heads.
      mlp: hidden width of the feed-forward.
      pre_norm: x + f(LN(x)) as in ViT, else LN(x + f(x)) as in BERT.
      norm_eps: epsilon of the LayerNorms.
      dropout: rate on the results of attention and feed-forward.
      activation: of the feed-forward.
      fused_attention: on TPUs, the kernel of `nn/kernels/attention.py`.
      dtype: of computation.
      param_dtype: of parameters.
    """

    heads: int
    mlp: int
    pre_norm: bool
    norm_eps: float
    dropout: float = 0.0
    activation: str = "gelu"
    fused_attention: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B W H"], mask: Bool[Array, "B 1 1 W"] | None, deterministic: bool
    ) -> tuple[Float[Array, "B W H"], None]:
        """One layer; the second result is what `nn.scan` wants of a step."""
        precision = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        kinds = {"use_bias": True, "fused": self.fused_attention, **precision}
        attention = Attention(self.heads, x.shape[-1] // self.heads, name="attention", **kinds)
        feed_forward = FeedForward(self.mlp, self.activation, name="mlp", **precision)
        attention_norm = LayerNorm(self.norm_eps, param_dtype=self.param_dtype, name="attention_norm")
        mlp_norm = LayerNorm(self.norm_eps, param_dtype=self.param_dtype, name="mlp_norm")
        drop = nn.Dropout(self.dropout, deterministic=deterministic)
        if self.pre_norm:
            x = x + drop(attention(attention_norm(x), mask=mask)[0])
            return x + drop(feed_forward(mlp_norm(x))), None
        x = attention_norm(x + drop(attention(x, mask=mask)[0]))
        return mlp_norm(x + drop(feed_forward(x))), None


class Transformer(nn.Module):
    """`layers` equal layers under one scan, so that depth does not grow the compile time.

    Attributes:
      layers: depth.
      remat: "none", "full" or "dots" (keep matrix products, compute the rest again).
      unroll: layers per iteration of the scan (all of them run fastest on a CPU, 1 compiles fastest).
      heads, mlp, pre_norm, norm_eps, dropout, activation, fused_attention, dtype, param_dtype: see `TransformerLayer`.
    """

    layers: int
    heads: int
    mlp: int
    pre_norm: bool
    norm_eps: float
    dropout: float = 0.0
    activation: str = "gelu"
    remat: str = "none"
    unroll: int = 1
    fused_attention: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B W H"], mask: Bool[Array, "B 1 1 W"] | None = None, deterministic: bool = True
    ) -> Float[Array, "B W H"]:
        layer = TransformerLayer
        if self.remat != "none":
            # Argument 3 is `deterministic`; prevent_cse is not needed inside a scan.
            layer = nn.remat(layer, policy=POLICIES[self.remat], prevent_cse=False, static_argnums=(3,))
        scanned = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=self.layers,
            unroll=self.unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = scanned(
            heads=self.heads,
            mlp=self.mlp,
            pre_norm=self.pre_norm,
            norm_eps=self.norm_eps,
            dropout=self.dropout,
            activation=self.activation,
            fused_attention=self.fused_attention,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="layers",
        )(x, mask, deterministic)
        return x
