"""Tokens drawn anew after the true ones: the likeliest one of each place is what the network says there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.geometry import Geometry
from melody_jax.lm.config import LMConfig
from melody_jax.lm.continuation import continue_codes
from melody_jax.lm.decode import Sampling
from melody_jax.lm.network import SemanticLM
from melody_jax.lm.redraw import redraw

GEOMETRY = Geometry(clip_seconds=0.4, mulan_tokens=3, mulan_codes=4, semantic_codes=6, semantic_levels=2)
VOCABULARY = Vocabulary.of(GEOMETRY)
MODEL = SemanticLM(LMConfig(layers=1, width=16, heads=2, hidden=32), VOCABULARY)
KEYS = jnp.asarray([[0, 1], [0, 2]], jnp.uint32)
ALL = jnp.ones((2, 20), bool)


@pytest.fixture(scope="module")
def given():
    """Weights, condition and codes of two clips of ten moments."""
    draw = np.random.default_rng(0).integers
    codes = np.stack([draw(0, 6, (2, 10)), 6 + draw(0, 6, (2, 10))], -1).reshape(2, 20)
    condition = VOCABULARY.condition(jnp.asarray(draw(0, 4, (2, 3)), jnp.int32))
    made = nn.meta.unbox(MODEL.init(jax.random.key(0), jnp.zeros((1, VOCABULARY.prefix + 1), jnp.int32)))
    return jax.tree.map(lambda x: 5 * x, made["params"]), condition, jnp.asarray(codes, jnp.int32)


def _likeliest(weights, condition, codes, guidance):
    """By the definition, one token at a time."""
    found = []
    for at in range(codes.shape[1]):
        both = condition, VOCABULARY.without_condition(condition)
        ids = [jnp.concatenate([each, VOCABULARY.semantic_ids(codes[:, :at])], 1) for each in both]
        told, untold = (np.asarray(MODEL.apply({"params": weights}, each))[:, -1] for each in ids)
        logits = np.where(VOCABULARY.legal()[at % 2], guidance * told + (1 - guidance) * untold, -np.inf)
        found.append(np.asarray(VOCABULARY.semantic_codes_of(jnp.asarray(logits.argmax(-1)))))
    return np.stack(found, axis=1)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("window", [10, 6])
def test_every_place_is_drawn_after_the_true_tokens_before_it(given, guidance, window):
    weights, condition, codes = given
    found = redraw(MODEL, weights, condition, codes, ALL, window, 2, KEYS, Sampling(temperature=0.0, guidance=guidance))
    wanted = _likeliest(weights, condition, codes[:, : 2 * window], guidance)
    if window < 10:  # two windows, of moments 0 to 5 and 4 to 9
        wanted = np.concatenate([wanted[:, :8], _likeliest(weights, condition, codes[:, 8:], guidance)], axis=1)
    np.testing.assert_array_equal(found, wanted)
    assert (np.asarray(found) != np.asarray(codes)).any()


def test_draws_follow_the_key_of_their_clip_alone(given):
    weights, condition, codes = given
    both = redraw(MODEL, weights, condition, codes, ALL, 10, 2, KEYS, Sampling())
    alone = redraw(MODEL, weights, condition[1:], codes[1:], ALL[1:], 10, 2, KEYS[1:], Sampling())
    other = redraw(MODEL, weights, condition, codes, ALL, 10, 2, KEYS + 7, Sampling())
    np.testing.assert_array_equal(both[1:], alone)
    assert (np.asarray(both) != np.asarray(other)).any()
    assert (np.asarray(both[:, ::2]) < 6).all() and (np.asarray(both[:, 1::2]) >= 6).all()


def test_what_is_not_replaced_stays(given):
    weights, condition, codes = given
    replaced = jnp.asarray(np.random.default_rng(1).random((2, 20)) < 0.5)
    some = redraw(MODEL, weights, condition, codes, replaced, 10, 2, KEYS, Sampling())
    every = redraw(MODEL, weights, condition, codes, ALL, 10, 2, KEYS, Sampling())
    np.testing.assert_array_equal(some, np.where(replaced, every, codes))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_passes_end_with_what_the_model_writes_by_itself(given, guidance):
    """The first n tokens after n passes, for they follow nothing but each other; with one pass they follow true tokens."""
    weights, condition, codes = given
    sampling = Sampling(guidance=guidance)
    own = jax.vmap(jax.random.fold_in, (0, None))(KEYS, 0)
    free = continue_codes(MODEL, weights, condition, codes[:, :0], 20, own, sampling, None)
    for passes in (2, 20):
        drawn = redraw(MODEL, weights, condition, codes, ALL, 10, 2, KEYS, sampling, passes)
        np.testing.assert_array_equal(drawn[:, :passes], free[:, :passes])
    once = redraw(MODEL, weights, condition, codes, ALL, 10, 2, KEYS, sampling)
    assert (np.asarray(once) != np.asarray(free)).any()
