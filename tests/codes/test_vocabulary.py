"""The language model's ids: disjoint, complete, reversible; which may stand where."""

import jax.numpy as jnp
import numpy as np

from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.geometry import Geometry

VOCABULARY = Vocabulary(mulan_tokens=3, mulan_codes=5, semantic_codes=7)


def test_every_id_has_one_meaning():
    specials = [VOCABULARY.pad, VOCABULARY.bos, VOCABULARY.eos, VOCABULARY.unknown]
    mulan = np.asarray(VOCABULARY.mulan_ids(jnp.broadcast_to(jnp.arange(5)[:, None], (5, 3)))).ravel()
    semantic = np.asarray(VOCABULARY.semantic_ids(jnp.arange(7)))
    together = sorted([*specials, *mulan.tolist(), *semantic.tolist()])
    assert together == list(range(VOCABULARY.size))
    assert Vocabulary.from_geometry(Geometry()).size == 4 + 12 * 1024 + 1024


def test_round_trip_and_foreign_ids():
    rng = np.random.default_rng(0)
    mulan = jnp.asarray(rng.integers(0, 5, (4, 3)), jnp.int32)
    semantic = jnp.asarray(rng.integers(0, 7, (4, 6)), jnp.int32)
    np.testing.assert_array_equal(VOCABULARY.mulan_codes_of(VOCABULARY.mulan_ids(mulan)), mulan)
    np.testing.assert_array_equal(VOCABULARY.semantic_codes_of(VOCABULARY.semantic_ids(semantic)), semantic)
    assert np.all(np.asarray(VOCABULARY.semantic_codes_of(VOCABULARY.mulan_ids(mulan))) == -1)
    unknown = jnp.full((2, 3), VOCABULARY.unknown)
    assert np.all(np.asarray(VOCABULARY.mulan_codes_of(unknown)) == -1)
    level_0_everywhere = jnp.full((1, 3), VOCABULARY.specials)
    np.testing.assert_array_equal(VOCABULARY.mulan_codes_of(level_0_everywhere), [[0, -1, -1]])


def test_a_sequence_and_a_dropped_condition():
    mulan, semantic = jnp.array([[0, 1, 2], [4, 4, 4]]), jnp.array([[0, 6], [3, 3]])
    tokens = VOCABULARY.sequence(mulan, semantic, keep=jnp.array([True, False]))
    np.testing.assert_array_equal(tokens, [[1, 4, 10, 16, 19, 25], [1, 3, 3, 3, 22, 22]])
    np.testing.assert_array_equal(VOCABULARY.condition(mulan), tokens[:, :4].at[1, 1:].set(jnp.array([8, 13, 18])))


def test_legal_ids_are_those_of_the_position():
    legal = np.asarray(VOCABULARY.legal(jnp.arange(6)))
    assert legal.shape == (6, VOCABULARY.size)
    wanted = [{1}, {3, *range(4, 9)}, {3, *range(9, 14)}, {3, *range(14, 19)}]
    wanted += [{0, 2, *range(19, 26)}] * 2
    assert [set(np.flatnonzero(row).tolist()) for row in legal] == wanted
    tokens = np.asarray(VOCABULARY.sequence(jnp.array([[0, 4, 2]]), jnp.array([[0, 6]])))[0]
    assert legal[np.arange(6), tokens].all()
