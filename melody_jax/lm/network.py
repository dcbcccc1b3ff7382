"""The network: LLaMA, layer by layer as in `LlamaForCausalLM`, with a key-value cache for decoding."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.lm import beats
from melody_jax.lm.config import LMConfig
from melody_jax.nn.attention import Attention, KVCache
from melody_jax.nn.dense import Dense, Embed
from melody_jax.nn.feedforward import FeedForward
from melody_jax.nn.norm import RMSNorm
from melody_jax.nn.remat import POLICIES
from melody_jax.parallel import activations
from melody_jax.shapes import Array, Bool, Float, Int

_INIT = nn.initializers.normal(0.02)


@flax.struct.dataclass
class LMCache(KVCache):
    """Keys and values, and the ids that they were made of.

    Attributes:
      tokens: [B, U] int32.
    """

    tokens: Any


class Block(nn.Module):
    """x + Attention(RMSNorm(x)), then x + SwiGLU(RMSNorm(x))."""

    config: LMConfig
    train: bool = False

    @nn.compact
    def __call__(
        self, carry: tuple[Float[Array, "B W H"], LMCache | None], layer: Any, mask: Array | None, positions: Array
    ) -> tuple[tuple[Float[Array, "B W H"], LMCache | None], None]:
        cfg, (x, cache) = self.config, carry
        drop = nn.Dropout(cfg.dropout, deterministic=not self.train)
        kinds = {"fused": cfg.fused_attention, "dtype": cfg.dtype, "param_dtype": cfg.param_dtype}
        attention = Attention(cfg.heads, cfg.width // cfg.heads, False, cfg.rope, **kinds)
        feed_forward = FeedForward(cfg.hidden, "swiglu", False, cfg.dtype, cfg.param_dtype)
        norm = RMSNorm(cfg.norm_eps, param_dtype=cfg.param_dtype, name="attention_norm")
        where = {"mask": mask, "positions": positions, "causal": cache is None}
        y, cache = attention(norm(x), cache=cache, layer=0 if layer is None else layer, **where)
        x = x + drop(y)
        norm = RMSNorm(cfg.norm_eps, param_dtype=cfg.param_dtype, name="feed_forward_norm")
        return (x + drop(feed_forward(norm(x))), cache), None


def _remat(policy: str) -> type[Block]:
    if policy == "none":
        return Block
    return nn.remat(Block, policy=POLICIES[policy], prevent_cse=False)  # pyright: ignore[reportReturnType]


class SemanticLM(nn.Module):
    """Token ids to next-token logits.

    Positions count real tokens, so padding (left or right, mask False) changes nothing for the others.
    """

    config: LMConfig
    vocabulary: Vocabulary

    @nn.compact
    def _forward(self, tokens, valid, cache, train):
        cfg = self.config
        slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)
        if cache is not None:
            every = jnp.ones((tokens.shape[0], cache.key.shape[2]), bool) if valid is None else valid
            mask, positions = _visibility(every, cache.length + slots)
        elif valid is not None:
            mask, positions = valid[:, None, None, :], _positions(valid)
        else:
            mask, positions = None, slots[None]
        table = Embed(self.vocabulary.size, cfg.width, dtype=cfg.dtype, param_dtype=cfg.param_dtype, name="embed")
        x = table(tokens)
        if cache is not None:
            held = jax.lax.dynamic_update_slice(cache.tokens, tokens.astype(cache.tokens.dtype), (0, cache.length))
            cache = cache.replace(tokens=held)
        if cfg.condition_everywhere or cfg.beats:
            condition = self._condition(tokens if cache is None else cache.tokens, valid)
            x = x + self._everywhere(table, condition, positions).astype(x.dtype)
        x = nn.Dropout(cfg.dropout, deterministic=not train)(x)
        layers = nn.scan(
            _remat(cfg.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=cfg.layers,
            unroll=cfg.unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(cfg, train, name="layers")
        # The cache goes through all layers as one array, which each of them writes a few rows of.
        indices = None if cache is None else jnp.arange(cfg.layers, dtype=jnp.int32)
        (x, cache), _ = layers((x, cache), indices, mask, positions)
        if cache is not None:
            cache = cache.replace(length=cache.length + tokens.shape[1])
        x = RMSNorm(cfg.norm_eps, param_dtype=cfg.param_dtype, name="norm")(x)
        if cfg.tie_embeddings:
            return table.attend(x), cache
        head = Dense(self.vocabulary.size, ("embed", "vocab"), False, cfg.dtype, cfg.param_dtype, _INIT, name="head")
        return head(x), cache

    def _condition(self, known, valid):
        """The first `prefix` real ids of `known`, [B, prefix]; pad where there are fewer."""
        prefix = self.vocabulary.prefix
        if valid is None:
            return known[:, :prefix]
        slots = jnp.argmax(valid, axis=1)[:, None] + jnp.arange(prefix)[None]
        return jnp.take_along_axis(known, slots, axis=1, mode="fill", fill_value=self.vocabulary.pad)

    def _everywhere(self, table, condition, positions):
        """What the condition adds to the positions that see all of it and so predict semantic tokens."""
        cfg, prefix, zeros = self.config, self.vocabulary.prefix, nn.initializers.zeros
        kinds = {"dtype": cfg.dtype, "param_dtype": cfg.param_dtype}
        added = jnp.zeros((), cfg.dtype)
        if cfg.condition_everywhere:
            spread = Dense(cfg.width, ("input", "embed"), False, **kinds, kernel_init=zeros, name="condition")
            embedded = table(condition)
            added = spread(jnp.sum(embedded, axis=1, dtype=embedded.dtype))[:, None]
        if cfg.beats:
            spread = Dense(cfg.width, ("input", "embed"), False, **kinds, kernel_init=zeros, name="beats")
            moments = (positions + 1 - prefix) // self.vocabulary.semantic_levels
            added = added + spread(beats.phases(self.vocabulary, condition, moments).astype(cfg.dtype))
        return jnp.where(positions[..., None] >= prefix - 1, added, 0)

    def __call__(
        self, tokens: Int[Array, "B W"], mask: Bool[Array, "B W"] | None = None, train: bool = False
    ) -> Float[Array, "B W V"]:
        """Logits of the token after each position, float32.

        Args:
          tokens: ids of the vocabulary.
          mask: True = a real token, False = padding; all real if None.
          train: dropout is on (needs a "dropout" key).
        """
        return self._forward(tokens, mask, None, train)[0].astype(jnp.float32)

    def extend(
        self, tokens: Int[Array, "B W"], cache: LMCache, mask: Bool[Array, "B U"] | None = None
    ) -> tuple[Float[Array, "B W V"], LMCache]:
        """Continues the sequences of `cache` by `tokens`: their logits (float32) and the longer cache.

        Args:
          tokens: the next ids of every row.
          cache: from `empty_cache` or an earlier call, with room for W more.
          mask: over the cache's U slots, True = holds, or will hold, a real token; all real if None.
        """
        logits, cache = self._forward(tokens, mask, cache, False)
        return logits.astype(jnp.float32), cache


def _visibility(valid: Bool[Array, "B U"], slots: Int[Array, " W"]) -> tuple[Bool[Array, "B 1 W U"], Int[Array, "B W"]]:
    """Who sees whom (True), and the position of each query."""
    keys = jnp.arange(valid.shape[1], dtype=jnp.int32)
    causal = keys[None, :] <= slots[:, None]
    return (causal[None] & valid[:, None, :])[:, None], jnp.take(_positions(valid), slots, axis=1)


def _positions(valid: Bool[Array, "B U"]) -> Int[Array, "B U"]:
    """The number of real tokens before each slot."""
    return jnp.maximum(jnp.cumsum(valid.astype(jnp.int32), axis=1) - 1, 0)


def empty_cache(config: LMConfig, rows: int, size: int) -> LMCache:
    """A cache for `rows` sequences of at most `size` tokens.

    In the compute dtype; on CPUs in float32, because XLA there converts all of a bfloat16 array to write some of it.
    """
    dtype = jnp.float32 if activations.platform() == "cpu" else jnp.dtype(config.dtype)
    empty = jnp.zeros((config.layers, rows, size, config.width), dtype)
    return LMCache(empty, empty, jnp.zeros((), jnp.int32), jnp.zeros((rows, size), jnp.int32))
