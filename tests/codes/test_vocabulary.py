"""The language model's ids: disjoint, complete, reversible; which may stand where."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from melody_jax.codes import controls
from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.geometry import Geometry

VOCABULARY = Vocabulary(mulan_tokens=3, mulan_codes=5, semantic_codes=7)
WHOLE = Vocabulary(mulan_tokens=3, mulan_codes=5, semantic_codes=7, semantic_levels=2, controls=(3, 2))
BEATING = Vocabulary(mulan_tokens=3, mulan_codes=5, semantic_codes=7, controls=controls.SIZES)


def test_every_id_has_one_meaning():
    specials = [WHOLE.pad, WHOLE.bos, WHOLE.eos, WHOLE.unknown]
    mulan = np.asarray(WHOLE.mulan_ids(jnp.broadcast_to(jnp.arange(5)[:, None], (5, 3)))).ravel()
    semantic = np.asarray(WHOLE.semantic_ids(jnp.arange(14)))
    known = {int(id) for codes in ([0, 0], [1, 1], [2, 1]) for id in WHOLE.control_ids(jnp.array([codes]))[0]}
    together = sorted([*specials, *mulan.tolist(), *semantic.tolist(), *known])
    assert together == list(range(38)) and WHOLE.size == 40  # filled up


def test_without_controls_and_levels_it_is_the_publications():
    assert Vocabulary.of(Geometry()).size == 4 + 12 * 1024 + 1024
    assert Vocabulary.of(Geometry(), controls=True).size == -(-(4 + 12 * 1024 + 1024 + sum(controls.SIZES)) // 8) * 8


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


def _condition(*pieces):
    codes = jnp.asarray(np.stack([controls.encode(piece) for piece in pieces]))
    return BEATING.condition(jnp.zeros((len(pieces), 3), jnp.int32), controls=codes)


def test_beats_are_counted_from_the_first_of_a_bar():
    """At 120 to the minute and 25 moments a second a beat is 12.5 moments."""
    waltz = controls.Controls(120.0, metre="3/4", downbeat=0.5)  # the start is the last beat of a bar before
    march, unknown = controls.Controls(60.0, downbeat=0.0), controls.Controls(60.0, metre="2/4")
    beats, bar, known = BEATING.beats(_condition(waltz, march, unknown), jnp.array([[0, 25, 50]]))
    np.testing.assert_allclose(beats, [[2, 4, 6], [0, 1, 2], [0, 0, 0]], atol=1e-5)
    assert bar[:, 0].tolist() == [3, 0, 0] and known[:, 0].tolist() == [True, True, False]


def test_music_that_begins_later_has_another_phase_and_no_other_control():
    waltz, unknown = controls.Controls(120.0, (2, "minor"), "3/4", downbeat=0.5), controls.Controls(60.0)
    condition = _condition(waltz, waltz, unknown)
    found = BEATING.later(condition, jnp.array([25, 75, 25]))
    expected = [dataclasses.replace(waltz, downbeat=-0.5), dataclasses.replace(waltz, downbeat=-2.5), unknown]
    np.testing.assert_array_equal(found, _condition(*expected))
    np.testing.assert_array_equal(BEATING.later(condition, 0), condition)
    np.testing.assert_array_equal(BEATING.later(BEATING.later(condition, 25), -25), condition)
    for at in (0, 40):  # the same moment, counted from either start
        there = BEATING.beats(condition[:1], jnp.array([[25 + at]]))[0] % 3
        np.testing.assert_allclose(BEATING.beats(found[:1], jnp.array([[at]]))[0] % 3, there, atol=0.03)
    plain = VOCABULARY.condition(jnp.zeros((1, 3), jnp.int32))
    np.testing.assert_array_equal(VOCABULARY.later(plain, 9), plain)


def test_legal_ids_are_those_of_the_level():
    assert [set(np.flatnonzero(row).tolist()) for row in VOCABULARY.legal()] == [set(range(19, 26))]
    assert [set(np.flatnonzero(row).tolist()) for row in WHOLE.legal()] == [set(range(19, 26)), set(range(26, 33))]


def test_what_holds_for_all_of_a_piece():
    """Rows of a table without semantic ids: a known phase counts as unknown, a condition without controls is read too."""
    codes, mulan = np.ones((1, len(controls.SLOTS)), np.int32), jnp.array([[4, 4, 4]])
    condition = BEATING.condition(mulan, controls=jnp.asarray(codes))
    rows = np.asarray(BEATING.condition_rows(condition))
    assert BEATING.condition_size == 4 + 3 * 5 + sum(controls.SIZES)
    starts = 4 + 3 * 5 + np.cumsum((0, *controls.SIZES))[:-1]
    known = np.array([0 if slot == "phase" else 1 for slot in controls.SLOTS])
    np.testing.assert_array_equal(rows[0], [BEATING.bos, 8, 13, 18, *(starts + known)])
    plain = Vocabulary(mulan_tokens=3, mulan_codes=5, semantic_codes=7)
    np.testing.assert_array_equal(BEATING.condition_rows(plain.condition(mulan))[0], rows[0, :4])
    last = jnp.asarray([[size - 1 for size in controls.SIZES]])
    assert int(BEATING.condition_rows(BEATING.condition(mulan, controls=last)).max()) == BEATING.condition_size - 1
