"""A language model's own draws in the places of some of a clip's tokens: what a model that will meet its errors learns from."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.lm.decode import Sampling, draw, guided
from melody_jax.lm.loss import window_starts
from melody_jax.lm.network import SemanticLM
from melody_jax.shapes import Array, Bool, Float, Int, UInt32


def redraw(
    model: SemanticLM,
    weights: Any,
    condition: Int[Array, "B prefix"],
    semantic: Int[Array, "B N"],
    replaced: Bool[Array, "B N"],
    window: int,
    levels: int,
    keys: UInt32[Array, "B 2"],
    sampling: Sampling,
    passes: int = 1,
) -> Int[Array, "B N"]:
    """Clips' semantic tokens, those at `replaced` drawn anew after the condition and the tokens before them (`redraw_ids`).

    Clips longer than a window are cut into as few windows as cover them, evenly spaced; where two meet, the later one counts.

    Args:
      window: moments of `levels` tokens in one sequence.
      keys: one for each clip.
    """
    vocabulary = model.vocabulary

    def step(tokens: Array, cache: None) -> tuple[Array, None]:
        return jnp.asarray(model.apply({"params": weights}, tokens), jnp.float32), cache

    def logits_of(ids: Array) -> Array:
        if sampling.guidance == 1:
            return step(ids, None)[0]
        untold = vocabulary.without_condition(ids[:, : vocabulary.prefix])
        untold = jnp.concatenate([untold, ids[:, vocabulary.prefix :]], axis=1)
        return guided(step, sampling.guidance)(jnp.concatenate([ids, untold]), None)[0]

    drawn = semantic
    for start in map(int, window_starts(semantic.shape[1] // levels, window)):
        at = slice(levels * start, levels * (start + window))
        begun, own = vocabulary.later(condition, start), jax.vmap(jax.random.fold_in, (0, None))(keys, start)
        true = vocabulary.semantic_ids(semantic[:, at]).astype(condition.dtype)
        ids = jnp.concatenate([begun, true], axis=1)
        ids = redraw_ids(logits_of, vocabulary, ids, replaced[:, at], own, sampling, passes)
        codes = vocabulary.semantic_codes_of(ids[:, vocabulary.prefix :])
        drawn = drawn.at[:, at].set(codes.astype(semantic.dtype))
    return drawn


def redraw_ids(
    logits_of: Callable[[Int[Array, "B S"]], Float[Array, "B S V"]],
    vocabulary: Vocabulary,
    ids: Int[Array, "B W"],
    replaced: Bool[Array, "B N"],
    keys: UInt32[Array, "B 2"],
    sampling: Sampling,
    passes: int,
) -> Int[Array, "B W"]:
    """Sequences of which the semantic tokens at `replaced` are draws ("Parallel scheduled sampling": Duckworth et al., 2019).

    In the first pass all are drawn after the true tokens, in each further one after what the pass before has left. A place
    is drawn with the same noise in every pass: where all of them are replaced, as many passes as there are tokens end with
    what the model writes by itself with these keys, and a few are on the way there.

    Args:
      logits_of: ids to the logits of what follows each of them.
      ids: condition and semantic tokens.
      keys: one for each sequence.
    """
    prefix, width = vocabulary.prefix, replaced.shape[1]
    legal = jnp.asarray(vocabulary.legal())
    legal = legal[jnp.arange(width) % legal.shape[0]]
    each = jax.vmap(lambda key: jax.vmap(lambda at: jax.random.fold_in(key, at))(jnp.arange(width)))(keys)
    true = ids[:, prefix:]
    for _ in range(passes):
        logits = jnp.where(legal, logits_of(ids[:, :-1])[:, prefix - 1 :], -jnp.inf)
        drawn = draw(each.reshape(-1, 2), logits.reshape(-1, logits.shape[-1]), sampling).reshape(true.shape)
        ids = ids.at[:, prefix:].set(jnp.where(replaced, drawn.astype(ids.dtype), true))
    return ids
