"""The language model's ids: disjoint, complete, reversible; which may stand where."""

import jax.numpy as jnp
import numpy as np

from melody_jax.codes import controls
from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.geometry import Geometry

VOCABULARY = Vocabulary(mulan_tokens=3, mulan_codes=5, semantic_codes=7)
WHOLE = Vocabulary(mulan_tokens=3, mulan_codes=5, semantic_codes=7, semantic_levels=2, controls=(3, 2))


def test_every_id_has_one_meaning():
    specials = [WHOLE.pad, WHOLE.bos, WHOLE.eos, WHOLE.unknown]
    mulan = np.asarray(WHOLE.mulan_ids(jnp.broadcast_to(jnp.arange(5)[:, None], (5, 3)))).ravel()
    semantic = np.asarray(WHOLE.semantic_ids(jnp.arange(14)))
    known = {int(id) for codes in ([0, 0], [1, 1], [2, 1]) for id in WHOLE.control_ids(jnp.array([codes]))[0]}
    together = sorted([*specials, *mulan.tolist(), *semantic.tolist(), *known])
    assert together == list(range(38)) and WHOLE.size == 40  # filled up


def test_without_controls_and_levels_it_is_the_publications():
    assert Vocabulary.of(Geometry()).size == 4 + 12 * 1024 + 1024
    assert Vocabulary.of(Geometry(), controls=True).size == 4 + 12 * 1024 + 1024 + sum(controls.SIZES) + 1


def test_round_trip_and_foreign_ids():
    rng = np.random.default_rng(0)
    semantic = jnp.asarray(rng.integers(0, 14, (4, 6)), jnp.int32)
    mulan = jnp.asarray(rng.integers(0, 5, (4, 3)), jnp.int32)
    np.testing.assert_array_equal(WHOLE.semantic_codes_of(WHOLE.semantic_ids(semantic)), semantic)
    for foreign in (WHOLE.mulan_ids(mulan), WHOLE.control_ids(jnp.array([[0, 1]])), jnp.array([0, 3])):
        assert np.all(np.asarray(WHOLE.semantic_codes_of(foreign)) == -1)


def test_a_sequence_and_a_dropped_condition():
    mulan, semantic = jnp.array([[0, 1, 2], [4, 4, 4]]), jnp.array([[0, 6], [3, 3]])
    tokens = VOCABULARY.sequence(mulan, semantic, keep=jnp.array([True, False]))
    np.testing.assert_array_equal(tokens, [[1, 4, 10, 16, 19, 25], [1, 3, 3, 3, 22, 22]])
    np.testing.assert_array_equal(VOCABULARY.condition(mulan), tokens[:, :4].at[1, 1:].set(jnp.array([8, 13, 18])))


def test_controls_stand_before_the_music_and_are_dropped_with_the_rest():
    mulan, codes = jnp.array([[0, 1, 2]] * 2), jnp.array([[2, 1]] * 2)
    condition = WHOLE.condition(mulan, jnp.array([True, False]), codes)
    np.testing.assert_array_equal(condition, [[1, 4, 10, 16, 35, 37], [1, 3, 3, 3, 33, 36]])
    np.testing.assert_array_equal(WHOLE.condition(mulan)[:, 4:], [[33, 36]] * 2)
    np.testing.assert_array_equal(WHOLE.without_condition(condition), condition[jnp.array([1, 1])])
    assert condition.shape[1] == WHOLE.prefix


def test_legal_ids_are_those_of_the_level():
    assert [set(np.flatnonzero(row).tolist()) for row in VOCABULARY.legal()] == [set(range(19, 26))]
    assert [set(np.flatnonzero(row).tolist()) for row in WHOLE.legal()] == [set(range(19, 26)), set(range(26, 33))]
