"""Multi-head attention: self or cross, with rotary positions and a key-value cache for decoding."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from melody_jax.nn.dense import Dense, batched_matmul
from melody_jax.nn.kernels import attention as kernel
from melody_jax.nn.remat import KEPT
from melody_jax.parallel import activations
from melody_jax.shapes import Array, Bool, Float, Int


@flax.struct.dataclass
class KVCache:
    """Keys and values of the positions decoded so far; as in any pytree the leaves may be shapes or axes instead of arrays.

    Attributes:
      key: [layers, B, U, channels], heads side by side in channels = heads * dim: a TPU pads a last axis of 64 to 128 in memory.
      value: like `key`.
      length: positions in use in every layer, int32. A layer writes behind it; who calls the last layer moves it on.
    """

    key: Any
    value: Any
    length: Any

    def extended(self, layer: Array | int, key: Array, value: Array) -> tuple["KVCache", Array, Array]:
        """With keys and values [B, W, channels] behind those of a layer; and that layer's [B, U, channels]."""
        index = jnp.asarray(layer, self.length.dtype)
        zero = jnp.zeros_like(index)

        def write(held: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice(held, new.astype(held.dtype)[None], (index, zero, self.length, zero))

        cache = self.replace(key=write(self.key, key), value=write(self.value, value))
        return cache, *(jax.lax.dynamic_index_in_dim(held, index, keepdims=False) for held in (cache.key, cache.value))


def rotary(
    x: Float[Array, "B W heads dim"], positions: Int[Array, "#B W"], base: float = 10_000.0, interleaved: bool = False
) -> Float[Array, "B W heads dim"]:
    """Rotates pairs of channels by position * base^(-2i/dim) (Su et al., RoFormer, eq. 34). Returns x's dtype.

    Pairs are (i, i + dim/2), as in LLaMA, or (2i, 2i + 1), as in RoFormer, when `interleaved`. Float32 inside: angles of
    a few thousand radians have no digits left in bfloat16.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions.astype(jnp.float32)[:, :, None] * frequency[None, None, :]
    cos, sin = jnp.cos(angle)[:, :, None, :], jnp.sin(angle)[:, :, None, :]
    wide = x.astype(jnp.float32)
    first, second = (wide[..., 0::2], wide[..., 1::2]) if interleaved else (wide[..., :half], wide[..., half:])
    rotated = (first * cos - second * sin, second * cos + first * sin)
    joined = jnp.stack(rotated, -1).reshape(x.shape) if interleaved else jnp.concatenate(rotated, -1)
    return joined.astype(x.dtype)


def causal_mask(width: int) -> Bool[Array, "1 1 W W"]:
    """True where query position >= key position."""
    return jnp.tril(jnp.ones((width, width), bool))[None, None]


def attend(
    query: Float[Array, "B W heads dim"],
    key: Float[Array, "B U heads dim"],
    value: Float[Array, "B U heads dim"],
    mask: Bool[Array, "#B #heads #W #U"] | None = None,
) -> Float[Array, "B W heads dim"]:
    """softmax(q k^T / sqrt(dim)) v; the softmax in float32, masked positions get no weight. Returns query's dtype."""
    q, k, v = (t.transpose(0, 2, 1, 3) for t in (query * query.shape[-1] ** -0.5, key, value))
    logits = batched_matmul(q, k.swapaxes(-1, -2))
    return batched_matmul(softmax(logits, mask), v).transpose(0, 2, 1, 3)


def attend_once(
    query: Float[Array, "B 1 channels"],
    key: Float[Array, "B U channels"],
    value: Float[Array, "B U channels"],
    dim: int,
    mask: Bool[Array, "#B #heads 1 #U"] | None = None,
) -> Float[Array, "B 1 channels"]:
    """`attend` of one query to heads that stay side by side in channels = heads * dim. Returns query's dtype.

    Every head has a row of its own, zero in the lanes of the others: keys and values are read once and as they lie in
    memory, which is what a step of decoding waits for. A TPU's matrix unit would be empty with a single row.
    """
    head = jnp.arange(query.shape[-1], dtype=jnp.int32) // dim
    own = (head[None, :] == jnp.arange(query.shape[-1] // dim, dtype=jnp.int32)[:, None])[None]
    rows = jnp.where(own, query * dim**-0.5, jnp.zeros((), query.dtype))
    weights = softmax(batched_matmul(rows, key.swapaxes(1, 2))[:, :, None], mask)[:, :, 0]
    y = jnp.where(own, batched_matmul(weights, value), jnp.zeros((), value.dtype))
    return jnp.sum(y, axis=1, keepdims=True, dtype=jnp.float32).astype(query.dtype)  # one head's number and zeros


def multi_head(
    query: Float[Array, "B W channels"],
    key: Float[Array, "B U channels"],
    value: Float[Array, "B U channels"],
    dim: int,
    *,
    positions: tuple[Int[Array, "#B W"], Int[Array, "#B U"]] | None = None,
    rope: float = 10_000.0,
    interleaved: bool = False,
    causal: bool = False,
    mask: Bool[Array, "#B #heads #W #U"] | None = None,
    fused: bool = True,
) -> Float[Array, "B W channels"]:
    """Attention of heads that lie side by side in channels = heads * dim. Returns query's dtype.

    Args:
      query, key, value: the maps' results.
      dim: width of a head.
      positions: of queries and of keys, which are then turned by `rotary`; None for no positions.
      rope: base of the rotary positions.
      interleaved: see `rotary`.
      causal: query i sees keys 0 .. i only.
      mask: True = attend.
      fused: run the kernel of `nn/kernels/attention.py` where it can: on TPUs, with a mask that is one for all queries.
    """
    plain = mask is None or mask.shape[1:3] == (1, 1)
    if (
        fused
        and plain
        and not interleaved
        and activations.kernels_run()
        and kernel.fits(query.shape[-1], dim, key.shape[1], query.dtype)
    ):
        turns = None if positions is None else tuple(kernel.turn(at, dim, rope) for at in positions)
        seen = None if mask is None else jnp.broadcast_to(mask[:, 0, 0], key.shape[:2])
        y = kernel.attention(query, key.astype(query.dtype), value.astype(query.dtype), dim, causal, turns, seen)
        return checkpoint_name(y, KEPT)
    q, k, v = (x.reshape(*x.shape[:2], -1, dim) for x in (query, key, value))
    if positions is not None:
        q, k = (rotary(x, at, rope, interleaved) for x, at in zip((q, k), positions, strict=True))
    if causal:
        before = causal_mask(q.shape[1])
        mask = before if mask is None else mask & before
    return attend(q, k.astype(q.dtype), v.astype(q.dtype), mask).reshape(query.shape)


@jax.custom_vjp
def softmax(
    logits: Float[Array, "B heads W U"], mask: Bool[Array, "#B #heads #W #U"] | None
) -> Float[Array, "B heads W U"]:
    """Softmax over the last axis in float32, masked positions zero. Returns logits' dtype.

    The backward pass works from the weights in that dtype: half the memory traffic of the gradient that JAX derives from
    the float32 ones, and attention on TPUs is bound by that traffic.
    """
    wide = logits.astype(jnp.float32)
    if mask is not None:
        wide = jnp.where(mask, wide, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(wide, axis=-1).astype(logits.dtype)


def _softmax_forward(logits, mask):
    weights = softmax(logits, mask)
    return weights, weights


def _softmax_backward(weights, g):
    p, g = weights.astype(jnp.float32), g.astype(jnp.float32)
    return (p * (g - jnp.sum(p * g, axis=-1, keepdims=True))).astype(weights.dtype), None


softmax.defvjp(_softmax_forward, _softmax_backward)


class Attention(nn.Module):
    """Multi-head attention over `x` itself, or over `memory`.

    Attributes:
      heads: number of heads.
      head_dim: width of a head.
      use_bias: biases on the query, key, value and output maps.
      rope: base of the rotary positions of queries and keys, or None for none.
      interleaved: rotary pairs (2i, 2i + 1) as in RoFormer, instead of (i, i + dim/2).
      fused: on TPUs, and without a cache, as the kernel of `nn/kernels/attention.py`.
      dtype: compute dtype.
      param_dtype: dtype of the parameters.
    """

    heads: int
    head_dim: int
    use_bias: bool = False
    rope: float | None = None
    interleaved: bool = False
    fused: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B W H"],
        memory: Float[Array, "B U I"] | None = None,
        mask: Bool[Array, "..."] | None = None,
        positions: Int[Array, "#B W"] | None = None,
        cache: KVCache | None = None,
        layer: Int[Array, ""] | int = 0,
        causal: bool = False,
    ) -> tuple[Float[Array, "B W H"], KVCache | None]:
        """Attends; with a cache (self-attention only) appends x's keys and values to it first.

        Args:
          x: queries' source.
          memory: keys' and values' source; x itself if None.
          mask: True = attend, broadcastable to [B, heads, W, U]; with a cache U is the cache's size.
          positions: of x, for the rotary angles; 0 .. W-1 if None (counted from the cache's length with a cache).
          cache: what was decoded before.
          layer: which of the cache's layers is this one.
          causal: every position sees those up to itself only; with a cache the mask says so instead.

        Returns:
          The result of x's width and the cache with this layer's keys and values (None without one).
        """
        dense = functools.partial(Dense, use_bias=self.use_bias, dtype=self.dtype, param_dtype=self.param_dtype)
        source = x if memory is None else memory
        width = self.heads * self.head_dim
        query = dense(width, ("embed", "heads"), name="query")(x)
        key = dense(width, ("embed", "kv"), name="key")(source)
        value = dense(width, ("embed", "kv"), name="value")(source)
        turned = self.rope is not None and memory is None
        if turned and positions is None:
            start = jnp.int32(0) if cache is None else cache.length
            positions = (start + jnp.arange(x.shape[1], dtype=jnp.int32))[None]
        if cache is None:
            both = (positions, positions) if turned else None
            kinds = {"rope": self.rope or 0.0, "interleaved": self.interleaved, "causal": causal, "mask": mask}
            y = multi_head(query, key, value, self.head_dim, positions=both, fused=self.fused, **kinds)
        else:
            query, key = (self._turned(t, positions) if turned else t for t in (query, key))
            cache, key, value = cache.extended(layer, key, value)
            key, value = key.astype(query.dtype), value.astype(query.dtype)
            if query.shape[1] == 1:
                y = attend_once(query, key, value, self.head_dim, mask)
            else:
                y = attend(self._split(query), self._split(key), self._split(value), mask).reshape(query.shape)
        return dense(x.shape[-1], ("heads", "embed"), name="out")(y), cache

    def _turned(self, x: Array, positions: Any) -> Array:
        return rotary(self._split(x), positions, self.rope or 0.0, self.interleaved).reshape(x.shape)

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.heads, self.head_dim)
