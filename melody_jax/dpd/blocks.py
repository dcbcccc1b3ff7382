"""The dual-path block (MeLoDy, section 4.2): a coarse path across the segments, a fine path along their frames.

Block i of N works on H in R^{S x K x H_dim}, given E_ST (tokens) and E_delta (angles):

    coarse = repeat(RoFormer(merge(H); E_ST))        across the S segments, on K_MS(i) merged columns
    h      = RMSNorm(H + coarse)
    fine   = FiLM(SRU(h); E_delta + mean E_ST)       along the K frames of every segment
    H      = RMSNorm(h + fine)
"""

import functools
import math

import jax.numpy as jnp
from flax import linen as nn

from melody_jax.dpd import segments
from melody_jax.dpd.conditioning import MLP
from melody_jax.dpd.config import DPDConfig
from melody_jax.nn.attention import Attention, multi_head
from melody_jax.nn.dense import Dense
from melody_jax.nn.feedforward import FeedForward
from melody_jax.nn.norm import RMSNorm
from melody_jax.nn.recurrent import SRU
from melody_jax.shapes import Array, Bool, Float


def merge_factor(block: int, blocks: int) -> int:
    """Columns merged into one in block i = 1 .. N: 2^min(i-1, N-i+1), most in the middle of the network."""
    return 2 ** min(block - 1, blocks - block + 1)


def merged_width(segment: int, factor: int) -> int:
    """K_MS = ceil(K / factor)."""
    return -(-segment // factor)


def merge(x: Float[Array, "B S K H"], factor: int) -> Float[Array, "B S merged H"]:
    """Averages every `factor` columns, the last ones being fewer where K is not divisible; merged = K_MS."""
    if factor == 1:
        return x
    batch, rows, columns, width = x.shape
    merged = merged_width(columns, factor)
    padded = jnp.pad(x, ((0, 0), (0, 0), (0, merged * factor - columns), (0, 0)))
    sums = jnp.sum(padded.reshape(batch, rows, merged, factor, width), axis=3)
    sizes = jnp.full((merged,), factor, x.dtype).at[-1].set(columns - (merged - 1) * factor)
    return sums / sizes[None, None, :, None]


def repeat(x: Float[Array, "B S merged H"], factor: int, columns: int) -> Float[Array, "B S K H"]:
    """Repeats every merged column `factor` times, back to K = `columns`."""
    return x if factor == 1 else jnp.repeat(x, factor, axis=2)[:, :, :columns]


class CrossAttention(nn.Module):
    """Attention of the columns to the semantic tokens, or to their own column across segments for dropped conditions.

    Queries and keys carry rotary positions in one unit, latent frames since the start of the clip, so that a column can
    find the tokens that sound with it.

    Attributes:
      config: of the model.
      frames_per_token: latent frames per semantic token.
      factor: frames per merged column.
    """

    config: DPDConfig
    frames_per_token: int
    factor: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B merged S H"], tokens: Float[Array, "B N H"], keep: Bool[Array, "B"] | None
    ) -> Float[Array, "B merged S H"]:
        config = self.config
        dense = functools.partial(Dense, config.width, dtype=config.dtype, param_dtype=config.param_dtype)
        # With biases b on queries and keys alike, b R(distance) b is largest at distance 0: every column starts out
        # looking at the tokens that sound with it, and need not learn first where they are.
        level = (config.nearness / math.sqrt(config.width // config.heads)) ** 0.5
        near = nn.initializers.constant(level)
        project = {
            "query": dense(("embed", "heads"), bias_init=near, name="query"),
            "key": dense(("embed", "kv"), bias_init=near, name="key"),
            "value": dense(("embed", "kv"), use_bias=False, name="value"),
        }
        batch, columns, count, width = x.shape
        kinds = {"dim": width // config.heads, "rope": config.rope, "fused": config.fused_attention}
        half = config.segment // 2
        middle = jnp.arange(columns, dtype=jnp.int32) * self.factor + self.factor // 2
        start = (jnp.arange(count, dtype=jnp.int32) - 1) * half
        frame = (middle[:, None] + start[None, :]).reshape(1, -1)
        token_frame = jnp.arange(tokens.shape[1], dtype=jnp.int32) * self.frames_per_token + self.frames_per_token // 2

        query, key, value = project["query"](x), project["key"](tokens), project["value"](tokens)
        flat = query.reshape(batch, -1, width)
        y = multi_head(flat, key, value, positions=(frame, token_frame[None]), **kinds).reshape(x.shape)
        if keep is not None:
            # Of a column alone only the distances between its segments matter.
            of_rows, at = (batch * columns, count, width), start[None]
            own = (t.reshape(of_rows) for t in (query, project["key"](x), project["value"](x)))
            own = multi_head(*own, positions=(at, at), **kinds).reshape(x.shape)
            y = jnp.where(keep[:, None, None, None], y, own)
        return dense(("heads", "embed"), use_bias=False, name="out")(y)


class RoFormerLayer(nn.Module):
    """Rotary self-attention across segments, cross-attention to the tokens, feed-forward; each x + f(RMSNorm(x)).

    Attributes:
      config: of the model.
      frames_per_token: latent frames per semantic token.
      factor: frames per merged column.
    """

    config: DPDConfig
    frames_per_token: int
    factor: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B merged S H"], tokens: Float[Array, "B N H"], keep: Bool[Array, "B"] | None
    ) -> Float[Array, "B merged S H"]:
        config = self.config
        dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        norm = functools.partial(RMSNorm, param_dtype=config.param_dtype)
        rows = norm(name="self_norm")(x).reshape(-1, *x.shape[2:])  # a column of a clip is a sequence of S segments
        attention = Attention(
            config.heads,
            config.width // config.heads,
            rope=config.rope,
            fused=config.fused_attention,
            name="self_attention",
            **dtypes,
        )
        x = x + attention(rows)[0].reshape(x.shape)
        cross = CrossAttention(config, self.frames_per_token, self.factor, name="cross_attention")
        x = x + cross(norm(name="cross_norm")(x), tokens, keep)
        feed_forward = FeedForward(config.hidden, name="feed_forward", **dtypes)
        return x + feed_forward(norm(name="feed_forward_norm")(x))


class FiLM(nn.Module):
    """FiLM(X; M) = MLP3(X (x) MLP1(M) + MLP2(M)), feature-wise linear modulation (Perez et al., 2018).

    Attributes:
      config: of the model.
    """

    config: DPDConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S K I"], condition: Float[Array, "..."], inside: Float[Array, "1 padded 1"]
    ) -> Float[Array, "B S K H"]:
        """Modulates x by a condition per frame [B, padded, H] (`segments.pad`; inside: 0 for padding), or segment [B, S, 1, H]."""
        config = self.config
        mlp = functools.partial(MLP, config.width, dtype=config.dtype, param_dtype=config.param_dtype)
        scale = mlp(x.shape[-1], name="scale")(condition)
        shift = mlp(x.shape[-1], name="shift")(condition)
        if condition.ndim == 3:  # folded after the MLPs: every frame lies in two segments and is computed once
            scale, shift = (segments.fold(y * inside, config.segment) for y in (scale, shift))
        return mlp(config.width, name="out")(x * scale + shift)


class DualPathBlock(nn.Module):
    """Block i of the network, as written at the top of this file.

    Attributes:
      config: of the model.
      frames_per_token: latent frames per semantic token.
      factor: columns merged into one on the coarse path, `merge_factor(i, N)`.
    """

    config: DPDConfig
    frames_per_token: int
    factor: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S K H"],
        tokens: Float[Array, "B N H"],
        condition: Float[Array, "..."],
        inside: Float[Array, "1 padded 1"],
        keep: Bool[Array, "B"] | None,
    ) -> Float[Array, "B S K H"]:
        """H of the next block from H, E_ST, E_delta + mean E_ST (see `FiLM`) and what is not dropped."""
        config = self.config
        norm = functools.partial(RMSNorm, param_dtype=config.param_dtype)
        columns = merge(x, self.factor).swapaxes(1, 2)
        for layer in range(config.coarse_layers):
            columns = RoFormerLayer(config, self.frames_per_token, self.factor, name=f"coarse_{layer}")(
                columns, tokens, keep
            )
        coarse = repeat(columns.swapaxes(1, 2), self.factor, x.shape[2])
        h = norm(name="coarse_norm")(x + coarse)
        recurrent = SRU(
            config.recurrent_width,
            bidirectional=True,
            layers=config.recurrent_layers,
            scan=config.recurrence,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            name="fine",
        )
        fine = FiLM(config, name="film")(recurrent(h), condition, inside)
        return norm(name="fine_norm")(h + fine)
