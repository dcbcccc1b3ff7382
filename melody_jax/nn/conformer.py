"""Conformer (Gulati et al., 2020), in the form of Hugging Face's Wav2Vec2Conformer.

Block:  x + 1/2 FF(LN x)  ->  x + Attention(LN x)  ->  x + Convolution(x)  ->  LN(x + 1/2 FF(LN x)).
Convolution:  LN, pointwise to 2H, GLU, depthwise, norm, activation, pointwise.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from melody_jax.errors import UserError
from melody_jax.nn.attention import multi_head, rotary
from melody_jax.nn.conv import DepthwiseConv1d
from melody_jax.nn.dense import Dense, batched_matmul
from melody_jax.nn.feedforward import ACTIVATIONS, FeedForward
from melody_jax.nn.measured import MEASURED, measured
from melody_jax.nn.norm import LayerNorm, RMSNorm
from melody_jax.nn.remat import POLICIES
from melody_jax.shapes import Array, Bool, Float

"""Collection in which BatchNorm leaves the batch's mean and variance in training, under the paths of its parameters."""


@dataclasses.dataclass(frozen=True)
class ConformerConfig:
    """Shape of a stack of Conformer blocks. Its width is that of its input.

    Attributes:
      layers: depth.
      heads: attention heads; must divide the width.
      hidden: inner width of both feed-forward layers.
      kernel: taps of the depthwise convolution, odd.
      positions: "rotary" turns queries and keys (RoFormer), so scores depend on distances alone; "rotary_input" turns
        the input of the query and key maps, as Hugging Face's "rotary" does; "relative" is Transformer-XL's; "none".
      rope: base of the rotary angles.
      activation: "gelu" (erf), "gelu_tanh", "relu" or "silu", in feed-forward and convolution.
      convolution_norm: "batch" as published (statistics of the batch in training, running ones afterwards), "layer" or
        "rms", which couple neither examples nor devices.
      mask_convolution: padding is zero to the convolution too, so that it changes nothing; False lets it leak in, as
        Hugging Face does.
      dropout: rate on the result of every branch, in training.
      norm_eps: epsilon of every norm.
      remat: "none", "full" or "dots": what the backward pass computes again instead of storing.
      fused_attention: on TPUs, the kernel of `nn/kernels/attention.py`; XLA's own operations elsewhere, or where False.
      unroll: blocks per iteration of the scan over them (all of them run fastest on a CPU, 1 compiles fastest).
      dtype: of computation.
      param_dtype: of parameters.
    """

    layers: int = 14
    heads: int = 12
    hidden: int = 3072
    kernel: int = 31
    positions: str = "rotary"
    rope: float = 10_000.0
    activation: str = "gelu"
    convolution_norm: str = "batch"
    mask_convolution: bool = True
    dropout: float = 0.1
    norm_eps: float = 1e-5
    remat: str = "none"
    fused_attention: bool = True
    unroll: int = 1
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if self.kernel % 2 == 0:
            raise UserError(f"conformer: a kernel of {self.kernel} taps is even and has no middle")
        for field, known in (
            ("positions", ("rotary", "rotary_input", "relative", "none")),
            ("convolution_norm", ("batch", "layer", "rms")),
            ("remat", ("none", "full", "dots")),
        ):
            if getattr(self, field) not in known:
                raise UserError(f"conformer: {field} {getattr(self, field)!r} is none of {', '.join(known)}")


class BatchNorm(nn.Module):
    """Ioffe and Szegedy (2015). The running statistics `mean` and `var` are measured values (`nn/measured.py`).

    In training the batch's own statistics normalise; where the collection is mutable they take the place of the running
    ones, and the training code mixes the two.
    """

    eps: float = 1e-5
    param_dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N H"], mask: Bool[Array, "B N"] | None = None, train: bool = False
    ) -> Float[Array, "B N H"]:
        shape, dtype = (x.shape[-1],), jnp.dtype(self.param_dtype)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("norm",))
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
        scale, bias = self.param("scale", ones, shape, dtype), self.param("bias", zeros, shape, dtype)
        mean = measured(self, "mean", nn.initializers.zeros, shape, ("norm",), self.param_dtype)
        var = measured(self, "var", nn.initializers.ones, shape, ("norm",), self.param_dtype)
        wide = x.astype(jnp.float32)
        if train:
            where = jnp.ones((1, 1, 1), bool) if mask is None else mask[..., None]
            mean = jnp.mean(wide, axis=(0, 1), where=where)
            var = jnp.mean(jnp.square(wide - mean[None, None]), axis=(0, 1), where=where)
            if self.is_mutable_collection(MEASURED):
                for name, value in (("mean", mean), ("var", var)):
                    self.put_variable(MEASURED, name, jax.lax.stop_gradient(value.astype(dtype)))
        gain = jax.lax.rsqrt(var.astype(jnp.float32) + self.eps) * scale.astype(jnp.float32)
        shifted = (wide - mean.astype(jnp.float32)[None, None]) * gain[None, None]
        return (shifted + bias.astype(jnp.float32)[None, None]).astype(x.dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention with the positions that `config.positions` names."""

    config: ConformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B N H"], mask: Bool[Array, "B N"] | None) -> Float[Array, "B N H"]:
        cfg, (batch, frames, width) = self.config, x.shape
        types = {"dtype": cfg.dtype, "param_dtype": cfg.param_dtype}
        dim = width // cfg.heads
        split = (batch, frames, cfg.heads, dim)
        positions = jnp.arange(frames, dtype=jnp.int32)[None]
        source = x
        if cfg.positions == "rotary_input":
            source = rotary(x.reshape(split), positions, cfg.rope).reshape(x.shape)
        query = Dense(width, ("embed", "heads"), name="query", **types)(source)
        key = Dense(width, ("embed", "kv"), name="key", **types)(source)
        value = Dense(width, ("embed", "kv"), name="value", **types)(x)
        visible = None if mask is None else mask[:, None, None, :]
        if cfg.positions == "relative":
            query, key, value = (t.reshape(split) for t in (query, key, value))
            y = self._relative(query, key, value, visible).reshape(x.shape)
        else:
            both = (positions, positions) if cfg.positions == "rotary" else None
            kinds = {"rope": cfg.rope, "mask": visible, "fused": cfg.fused_attention}
            y = multi_head(query, key, value, dim, positions=both, **kinds)
        return Dense(width, ("heads", "embed"), name="out", **types)(y)

    def _relative(self, query: Array, key: Array, value: Array, visible: Array | None) -> Array:
        """Scores (q + u) k + (q + v) (W r): Transformer-XL (Dai et al., 2019), section 3.3, the form with u and v."""
        cfg, (batch, frames, heads, dim) = self.config, query.shape
        dtype = jnp.dtype(cfg.param_dtype)
        init = nn.with_logical_partitioning(nn.initializers.glorot_uniform(), ("heads", None))
        u = self.param("content_bias", init, (heads, dim), dtype).astype(query.dtype)[None, None]
        v = self.param("position_bias", init, (heads, dim), dtype).astype(query.dtype)[None, None]
        table = jnp.asarray(relative_positions(frames, heads * dim))
        table = Dense(
            heads * dim, ("embed", "heads"), False, dtype=cfg.dtype, param_dtype=cfg.param_dtype, name="position"
        )(table)
        table = table.reshape(-1, heads, dim).transpose(1, 2, 0)  # [heads, dim, 2N - 1]
        content = batched_matmul((query + u).transpose(0, 2, 1, 3), key.transpose(0, 2, 3, 1))
        turned = (query + v).transpose(2, 0, 1, 3).reshape(heads, batch * frames, dim)
        position = batched_matmul(turned, table).reshape(heads, batch, frames, 2 * frames - 1).swapaxes(0, 1)
        scores = (content + shift_relative(position)).astype(jnp.float32) * dim**-0.5
        if visible is not None:
            scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        return batched_matmul(weights, value.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


@functools.lru_cache
def relative_positions(frames: int, width: int) -> np.ndarray:
    """Sinusoids of the distances N-1 .. -(N-1) (query minus key), sine and cosine alternating; [2N - 1, width]."""
    distance = np.arange(frames - 1, -frames, -1, dtype=np.float64)[:, None]
    angle = distance * 10_000.0 ** (-np.arange(0, width, 2) / width)[None]
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(2 * frames - 1, width).astype(np.float32)


def shift_relative(scores: Float[Array, "B heads N distances"]) -> Float[Array, "B heads N N"]:
    """Entry (i, j) of the result is entry (i, N - 1 - i + j), the one of distance i - j, of `scores` (distances = 2N - 1)."""
    batch, heads, frames, distances = scores.shape
    padded = jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (1, 0)))
    sheared = padded.reshape(batch, heads, distances + 1, frames)[:, :, 1:]
    return sheared.reshape(scores.shape)[..., :frames]


class ConvolutionModule(nn.Module):
    """The Conformer's convolution, of the kernel and the norm that the config names."""

    config: ConformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B N H"], mask: Bool[Array, "B N"] | None, train: bool) -> Float[Array, "B N H"]:
        cfg, width = self.config, x.shape[-1]
        types = {"dtype": cfg.dtype, "param_dtype": cfg.param_dtype}
        x = LayerNorm(cfg.norm_eps, param_dtype=cfg.param_dtype, name="norm")(x)
        x = Dense(2 * width, ("embed", "mlp"), False, name="in", **types)(x)
        x = x[..., :width] * jax.nn.sigmoid(x[..., width:])
        if mask is not None and cfg.mask_convolution:
            x = x * mask[..., None].astype(x.dtype)
        x = DepthwiseConv1d(cfg.kernel, use_bias=False, name="depthwise", **types)(x)
        if cfg.convolution_norm == "batch":
            counted = mask if cfg.mask_convolution else None
            x = BatchNorm(cfg.norm_eps, cfg.param_dtype, name="depthwise_norm")(x, counted, train)
        else:
            norm = {"layer": LayerNorm, "rms": RMSNorm}[cfg.convolution_norm]
            x = norm(cfg.norm_eps, param_dtype=cfg.param_dtype, name="depthwise_norm")(x)
        x = ACTIVATIONS[cfg.activation](x)
        return Dense(width, ("mlp", "embed"), False, name="out", **types)(x)


class ConformerBlock(nn.Module):
    """One block; see the module's docstring."""

    config: ConformerConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N H"], mask: Bool[Array, "B N"] | None, train: bool
    ) -> tuple[Float[Array, "B N H"], None]:
        """The block's output; the second result is what `nn.scan` wants of a step."""
        cfg = self.config
        drop = nn.Dropout(cfg.dropout, deterministic=not train)
        norm = functools.partial(LayerNorm, cfg.norm_eps, param_dtype=cfg.param_dtype)
        forward = functools.partial(
            FeedForward, cfg.hidden, cfg.activation, dtype=cfg.dtype, param_dtype=cfg.param_dtype
        )
        half = jnp.asarray(0.5, x.dtype)
        x = x + half * drop(forward(name="feed_forward_1")(norm(name="feed_forward_1_norm")(x)))
        x = x + drop(SelfAttention(cfg, name="attention")(norm(name="attention_norm")(x), mask))
        x = x + drop(ConvolutionModule(cfg, name="convolution")(x, mask, train))
        x = x + half * drop(forward(name="feed_forward_2")(norm(name="feed_forward_2_norm")(x)))
        return norm(name="norm")(x), None


class Conformer(nn.Module):
    """`config.layers` blocks under one scan."""

    config: ConformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N H"],
        mask: Bool[Array, "B N"] | None = None,
        train: bool = False,
        depth: int | None = None,
    ) -> Float[Array, "B N H"]:
        """The output of block `depth` (counted from 1; the last if None); blocks above it are not computed.

        Args:
          x: input; padding is set to zero.
          mask: True = a frame, False = padding; all frames if None.
          train: dropout is on (needs a "dropout" key) and batch norm uses the batch.
          depth: 1 .. layers.
        """
        cfg = self.config
        block = ConformerBlock
        if cfg.remat != "none":
            # Argument 3 is `train`; prevent_cse is not needed inside a scan.
            block = nn.remat(block, policy=POLICIES[cfg.remat], prevent_cse=False, static_argnums=(3,))
        shallow = depth is not None and not self.is_initializing()
        scanned = nn.scan(
            block,
            variable_axes={"params": 0, MEASURED: 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=depth if shallow else cfg.layers,
            unroll=cfg.unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        if shallow:
            lower = functools.partial(jax.tree.map, lambda stacked: stacked[:depth])
            scanned = nn.map_variables(scanned, ["params", MEASURED], trans_in_fn=lower, mutable=False)
        if mask is not None:
            x = x * mask[..., None].astype(x.dtype)
        x, _ = scanned(cfg, name="layers")(x.astype(cfg.dtype), mask, train)
        return x
