"""Keys, tempi, metres and lengths of synthetic music whose answers are known."""

import types

import numpy as np
import pytest

from melody_jax.evaluate import adherence
from melody_jax.evaluate.adherence import FLUX_RATE
from melody_jax.evaluate.truth import Asked, choose_prompts

RATE = 24_000
MINOR = (0, 2, 3, 5, 7, 8, 10)


def _clicks(bpm: float, seconds: float = 10.0, bar: int = 0) -> np.ndarray:
    """Onset strength of a metronome, the first of each bar louder."""
    strength = np.zeros(int(seconds * FLUX_RATE), np.float32)
    for beat, at in enumerate(np.arange(0.1, seconds - 0.05, 60 / bpm)):
        strength[round(at * FLUX_RATE)] = 2.0 if bar and beat % bar == 0 else 1.0
    return strength + 0.01 * np.random.default_rng(0).random(strength.shape, np.float32)


def _scale(tonic: int, degrees: tuple[int, ...]) -> np.ndarray:
    """Chroma that goes up the scale and rests on the tonic triad, [F, 12]."""
    order = [*degrees, 12, degrees[2], degrees[4], 12, degrees[4], degrees[2], 0, 0]
    chroma = np.full((len(order) * 6, 12), 0.02, np.float32)
    for i, degree in enumerate(order):
        chroma[6 * i : 6 * i + 6, (tonic + degree) % 12] = 1.0
    return chroma


@pytest.mark.parametrize("tonic", [0, 3, 10])
def test_scales_are_heard_in_their_keys(tonic):
    assert adherence.keys(_scale(tonic, adherence.SCALE)[None]) == [(tonic, "major")]
    assert adherence.keys(_scale(tonic, MINOR)[None]) == [(tonic, "minor")]


def test_names_and_scores_of_keys():
    assert [adherence.pitch_class(name) for name in ("C", "D-flat", "F-sharp", "B-flat", "C-flat")] == [0, 1, 6, 10, 11]
    assert adherence.plain_mode("dorian") == "minor" and adherence.plain_mode("mixolydian") == "major"
    heard = [(0, "major"), (7, "major"), (9, "minor"), (0, "minor"), (2, "major")]
    assert [adherence.key_score(key, (0, "major")) for key in heard] == [1.0, 0.5, 0.3, 0.2, 0.0]
    assert adherence.key_score((0, "major"), (9, "minor")) == 0.3  # relative


@pytest.mark.parametrize("bpm", [60.0, 88.0, 120.0, 150.0])
def test_metronomes_have_their_tempo(bpm):
    heard = adherence.tempi(_clicks(bpm)[None])
    assert adherence.tempo_right(heard, np.array([bpm])).all()
    assert not adherence.tempo_right(heard, np.array([bpm * 1.2])).any()


def test_tempo_is_right_within_eight_percent_and_octaves():
    asked = np.array([100.0, 100.0, 100.0, 100.0, 100.0])
    heard = np.array([107.0, 109.0, 51.0, 196.0, 150.0])
    assert adherence.tempo_right(heard, asked).tolist() == [True, False, True, True, False]


def test_beats_stand_out_at_their_tempo_alone():
    strength = _clicks(90.0)[None]
    assert adherence.beat_strength(strength, np.array([90.0]))[0] > 5
    assert adherence.beat_strength(strength, np.array([127.0]))[0] < 3
    assert adherence.beat_strength(np.ones((1, 1000)), np.array([90.0]))[0] == pytest.approx(1.0, abs=1e-6)


def test_waltzes_are_told_from_marches():
    chroma = np.ones((1, 250, 12), np.float32) + 0.01 * np.random.default_rng(0).random((1, 250, 12), np.float32)
    for bar, sign in ((3, 1), (2, -1), (4, -1)):
        value = adherence.threes(_clicks(100.0, bar=bar)[None], chroma, np.array([100.0]))[0]
        assert np.sign(value) == sign, bar
    assert [adherence.beats_in_bar(metre) for metre in ("3/4", "4/4", "6/8", "9/8", "3/8", "2/2")] == [3, 4, 2, 3, 3, 2]


def test_notes_end_at_changes_and_onsets():
    chroma = np.full((25, 12), 0.01, np.float32)
    chroma[:10, 4] = 1.0
    chroma[10:20, 7] = 1.0
    chroma[3, 9] = 2.0  # one frame of something else is no note
    chroma[20:] = 0.0
    line = adherence.melody_line(chroma, np.array([0.6]))
    assert line == [(0.0, 0.4, 4), (0.4, 0.2, 7), (0.6, 0.2, 7)]
    assert adherence.melody_line(np.zeros((25, 12), np.float32), np.zeros(0)) == []


def test_scales_hold_what_belongs_to_them():
    assert adherence.in_best_scale(np.array([2, 4, 6, 7, 9, 11, 1, 2])) == 1.0  # D major
    assert adherence.in_best_scale(np.array([0, 2, 4, 5, 7, 9, 11, 1])) == 7 / 8
    assert adherence.in_best_scale(np.arange(12)) == 7 / 12
    assert np.isnan(adherence.in_best_scale(np.zeros(0, int)))


def _truth(family="brass", **fields) -> types.SimpleNamespace:
    told = {"families": (family,), "instruments": ("trumpet",), "tempo": 96.0, "key": "D", "mode": "minor"}
    return types.SimpleNamespace(family=family, **{**told, "metre": "3/4", **fields})


def test_only_what_a_sentence_names_is_asked():
    truths = [_truth(), _truth(), _truth()]
    sentences = ["trumpet, 96 bpm", "a tune in D minor and 3/4", "brass in D minor-like mood at 196 bpm, 13/4"]
    asked = Asked.by(sentences, truths)
    assert asked.families == ["brass", None, "brass"]
    assert asked.keys == [None, (2, "minor"), (2, "minor")]
    assert asked.metres == [None, "3/4", None]
    np.testing.assert_array_equal(asked.tempi, [96.0, np.nan, np.nan])
    assert Asked.all_of([_truth(key="", tempo=0.0)]).keys == [None]


def test_prompts_name_as_much_as_they_can_and_take_families_in_turn():
    captions = [("trumpet", "trumpet in D minor"), ("a sad tune",), ("harp at 96 bpm", "harp"), ("trumpet",)]
    truths = [_truth(), _truth(), _truth("plucked", instruments=("harp",)), _truth()]
    chosen = choose_prompts(captions, truths, 5)
    assert chosen == [(0, "trumpet in D minor"), (2, "harp at 96 bpm"), (3, "trumpet")]
    assert choose_prompts(captions, truths, 2) == chosen[:2]
    mixed = [_truth(families=("brass", "strings")), None]
    assert choose_prompts([("trumpet",), ("trumpet",)], mixed, 5) == []
