"""A language model's draws in the places of a clip's tokens: what a diffusion model that will play its tokens learns from."""

from typing import Any

import jax
import jax.numpy as jnp

from melody_jax.lm.decode import Sampling, draw, guided
from melody_jax.lm.loss import window_starts
from melody_jax.lm.network import SemanticLM
from melody_jax.shapes import Array, Int, UInt32


def redraw(
    model: SemanticLM,
    weights: Any,
    condition: Int[Array, "B prefix"],
    semantic: Int[Array, "B N"],
    window: int,
    levels: int,
    keys: UInt32[Array, "B 2"],
    sampling: Sampling,
) -> Int[Array, "B N"]:
    """Each semantic token of clips drawn anew, given the condition and the true tokens before it.

    Clips longer than a window are cut into as few windows as cover them, evenly spaced; where two meet, the later one counts.

    Args:
      window: moments of `levels` tokens in one sequence.
      keys: one for each clip.
    """
    drawn = semantic
    for start in map(int, window_starts(semantic.shape[1] // levels, window)):
        at = slice(levels * start, levels * (start + window))
        begun, key = model.vocabulary.later(condition, start), jax.vmap(jax.random.fold_in, (0, None))(keys, start)
        drawn = drawn.at[:, at].set(_redraw_window(model, weights, begun, semantic[:, at], key, sampling))
    return drawn


def _redraw_window(
    model: SemanticLM,
    weights: Any,
    condition: Int[Array, "B prefix"],
    semantic: Int[Array, "B W"],
    keys: UInt32[Array, "B 2"],
    sampling: Sampling,
) -> Int[Array, "B W"]:
    vocabulary, width = model.vocabulary, semantic.shape[1]
    true = vocabulary.semantic_ids(semantic).astype(condition.dtype)
    conditions = [condition] if sampling.guidance == 1 else [condition, vocabulary.without_condition(condition)]
    ids = jnp.concatenate([jnp.concatenate([each, true], axis=1) for each in conditions])

    def step(tokens: Array, cache: None) -> tuple[Array, None]:
        return jnp.asarray(model.apply({"params": weights}, tokens), jnp.float32), cache

    advance = step if sampling.guidance == 1 else guided(step, sampling.guidance)
    logits = advance(ids[:, :-1], None)[0][:, vocabulary.prefix - 1 :]
    legal = jnp.asarray(vocabulary.legal())
    logits = jnp.where(legal[jnp.arange(width) % legal.shape[0]], logits, -jnp.inf)
    each = jax.vmap(lambda key: jax.vmap(lambda at: jax.random.fold_in(key, at))(jnp.arange(width)))(keys)
    drawn = draw(each.reshape(-1, 2), logits.reshape(-1, logits.shape[-1]), sampling)
    return vocabulary.semantic_codes_of(drawn.reshape(semantic.shape)).astype(semantic.dtype)
