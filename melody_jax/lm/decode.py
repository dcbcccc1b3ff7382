"""Sampling from any autoregressive model, given as a callable (tokens, cache) -> (logits, cache).

The whole loop is one `lax.scan`, so one jit covers it. Every row has its own key: what a row draws never depends on the
other rows of the batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.errors import UserError
from melody_jax.shapes import Array, Bool, Float, Int, UInt32

Cache = Any
Step = Callable[[Array, Cache], tuple[Array, Cache]]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
      temperature: divides the logits; 0 takes the most likely token.
      top_k: only the k most likely tokens; 0 for all.
      top_p: only the most likely tokens that together reach this probability ("nucleus", Holtzman et al., 2020).
      guidance: g of classifier-free guidance: logits g * conditional + (1 - g) * unconditional; 1 for none.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature {self.temperature} is not a number of at least 0")
        if self.top_k < 0:
            raise UserError(f"top_k {self.top_k} is negative; 0 keeps all tokens")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p} is not in (0, 1]")
        if not 0 <= self.guidance < float("inf"):
            raise UserError(f"LM guidance {self.guidance} is not a number of at least 0")


def truncate(logits: Float[Array, "B V"], top_k: int, top_p: float) -> Float[Array, "B V"]:
    """-inf for every token outside the `top_k` most likely and outside the nucleus of mass `top_p`.

    The nucleus is taken from what top-k leaves; the most likely token always stays.
    """
    if 0 < top_k < logits.shape[-1]:
        threshold = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    if top_p < 1:
        ordered = -jnp.sort(-logits, axis=-1)
        probability = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability
        kept = jnp.where(before < top_p, ordered, jnp.inf)
        logits = jnp.where(logits < jnp.min(kept, axis=-1, keepdims=True), -jnp.inf, logits)
    return logits


def draw(keys: UInt32[Array, "B 2"], logits: Float[Array, "B V"], sampling: Sampling) -> Int[Array, " B"]:
    """One token per row."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = truncate(logits / sampling.temperature, sampling.top_k, sampling.top_p)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def guided(step: Step, guidance: float) -> Step:
    """Classifier-free guidance: step in, step out. The rows of `step` are the conditional, then the unconditional ones.

    The returned step takes conditional and unconditional rows at first and the common next tokens [B, 1] from then on.
    """

    def guided_step(tokens: Array, cache: Cache) -> tuple[Array, Cache]:
        logits, cache = step(tokens, cache)
        conditional, unconditional = jnp.split(logits, 2, axis=0)
        return guidance * conditional + (1 - guidance) * unconditional, cache

    return guided_step


def generate(
    step: Step,
    cache: Cache,
    prompt: Int[Array, "B W"],
    length: int,
    keys: UInt32[Array, "B 2"],
    legal: Bool[Array | np.ndarray, "R V"],
    sampling: Sampling,
    null_prompt: Int[Array, "B W"] | None = None,
) -> Int[Array, "B N"]:
    """Continues each prompt by `length` tokens.

    Args:
      step: (tokens [B, W], cache) -> (logits [B, W, V], cache); with guidance it is called with 2B rows.
      cache: empty, for B rows (2B with guidance) and at least W + length tokens.
      prompt: ids; a prefix of earlier tokens to be continued may stand at its end.
      length: N, number of tokens to draw.
      keys: one key per row.
      legal: row n modulo R is True for the ids that may be drawn as the n-th token.
      sampling: temperature, truncation, guidance.
      null_prompt: the prompt without its condition; needed where `sampling.guidance` is not 1.

    Raises:
      ValueError: guidance without a null prompt.
    """
    twice = sampling.guidance != 1
    if twice and null_prompt is None:
        raise ValueError("guidance needs the prompt without its condition (null_prompt)")
    advance = guided(step, sampling.guidance) if twice else step

    def both(tokens: Array, unconditional: Array | None) -> Array:
        return jnp.concatenate([tokens, unconditional]) if twice and unconditional is not None else tokens

    allowed = jnp.asarray(legal)
    logits, cache = advance(both(prompt, null_prompt), cache)

    def body(carry, index):
        logits, cache = carry
        step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
        token = draw(step_keys, jnp.where(allowed[index % len(allowed)][None], logits, -jnp.inf), sampling)
        following, cache = advance(both(token[:, None], token[:, None]), cache)
        return (following[:, -1], cache), token

    _, tokens = jax.lax.scan(body, (logits[:, -1], cache), jnp.arange(length))
    return tokens.T
