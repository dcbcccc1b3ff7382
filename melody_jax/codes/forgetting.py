"""What training hides of a clip's condition, so that a model can be sampled with any part of it."""

import jax
import jax.numpy as jnp

from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.shapes import Array, Bool, Int, PRNGKeyArray


def choose_codes(
    key: PRNGKeyArray, music: Int[Array, "B Q"], text: Int[Array, "B Q"], text_share: float
) -> Int[Array, "B Q"]:
    """Each clip's MuLan codes: its caption's with probability `text_share`, else its music's."""
    spoken = jax.random.uniform(key, (music.shape[0], 1)) < text_share
    return jnp.where(spoken, text, music)


def forget_condition(
    vocabulary: Vocabulary,
    key: PRNGKeyArray,
    tokens: Int[Array, "B W"],
    condition_dropout: float,
    level_dropout: float,
    control_dropout: float,
) -> Int[Array, "B W"]:
    """Replaces the MuLan ids of some clips, all or from a level on, by `unknown`, and some controls by "not known".

    Args:
      vocabulary: of the ids.
      key: of what is hidden.
      tokens: sequences that begin with a condition.
      condition_dropout: probability that nothing of a clip's condition is left.
      level_dropout: probability that only the first q MuLan ids are left, q uniform in 1 .. Q-1.
      control_dropout: probability that a control is hidden; half of this again hides all controls of a clip.
    """
    rows, levels = tokens.shape[0], vocabulary.mulan_tokens
    all_key, some_key, count_key = jax.random.split(key, 3)
    kept = jax.random.randint(count_key, (rows,), 1, levels) if levels > 1 else jnp.ones((rows,), jnp.int32)
    kept = jnp.where(jax.random.uniform(some_key, (rows,)) < level_dropout, kept, levels)
    whole = jax.random.uniform(all_key, (rows,)) >= condition_dropout
    kept = jnp.where(whole, kept, 0)
    places = jnp.arange(tokens.shape[1])[None, :]
    dropped = (places > kept[:, None]) & (places <= levels)
    tokens = jnp.where(dropped, vocabulary.unknown, tokens)
    if not vocabulary.controls:
        return tokens
    return _forget_controls(vocabulary, jax.random.fold_in(key, 1), tokens, whole, control_dropout)


def _forget_controls(
    vocabulary: Vocabulary, key: PRNGKeyArray, tokens: Int[Array, "B W"], whole: Bool[Array, " B"], dropout: float
) -> Int[Array, "B W"]:
    """Hides controls: all of a clip that is not `whole`, and more at random."""
    first, count = 1 + vocabulary.mulan_tokens, len(vocabulary.controls)
    each_key, all_key = jax.random.split(key)
    known = jax.random.uniform(each_key, (tokens.shape[0], count)) >= dropout
    whole &= jax.random.uniform(all_key, (tokens.shape[0],)) >= dropout / 2
    nothing = vocabulary.control_ids(jnp.zeros((1, count), tokens.dtype))
    ids = jnp.where(known & whole[:, None], tokens[:, first : first + count], nothing)
    return tokens.at[:, first : first + count].set(ids)
