"""The judges of notes on sine melodies whose notes are known."""

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.evaluate import notes, spectra
from melody_jax.evaluate.estimate import mean

RATE = 24_000
SECONDS = 4


def _melody(seed: int, step: float = 0.25, partials: int = 4) -> tuple[np.ndarray, list[tuple[float, float, int, int]]]:
    """A melody of notes of `step` seconds without rests, each fading over its length."""
    rng = np.random.default_rng(seed)
    audio, score = np.zeros(SECONDS * RATE, np.float32), []
    for i in range(int(SECONDS / step)):
        pitch = int(rng.integers(50, 80))
        t = np.arange(int(step * RATE)) / RATE
        hertz = 440 * 2 ** ((pitch - 69) / 12)
        tone = sum(np.sin(2 * np.pi * hertz * n * t) / n for n in range(1, partials + 1))
        at = int(i * step * RATE)
        audio[at : at + len(t)] += 0.1 * tone * np.exp(-3 * t) * np.minimum(1, (step - t) / 0.01)
        score.append((i * step, step, pitch, 0))
    return audio, score


@pytest.fixture(scope="module")
def melodies():
    made = [_melody(seed) for seed in range(16)]
    return np.stack([audio for audio, _ in made]), [score for _, score in made]


def test_a_frame_belongs_to_what_sounds_in_its_middle():
    found = notes.lone_pitch_class([(0.0, 0.1, 60, 0), (0.1, 0.08, 62, 0), (0.16, 0.1, 64, 1)], 8)
    # middles at 20, 60, 100, 140, 180, 220, 260 ms; the second and third note sound together from 160 to 180 ms
    assert found.tolist() == [0, 0, 2, 2, 4, 4, notes.NONE, notes.NONE]
    assert notes.sounding([(0.0, 0.1, 60, 0), (0.0, 0.1, 72, 1)], 3)[:, 0].tolist() == [2, 2, 0]


def test_a_sine_lies_in_its_band_and_pitch_class():
    t = np.arange(RATE) / RATE
    for pitch in (48, 61, 69, 93):
        tone = 0.1 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * t)[None]
        found = spectra.bands(tone, RATE)
        assert found.shape == (1, 25, spectra.BANDS)
        assert found[0, 12].argmax() == 2 * (pitch - spectra.LOWEST)
        assert spectra.chroma(found)[0, 12].argmax() == pitch % 12


def test_pitch_classes_of_unseen_melodies_are_heard(melodies):
    audio, score = melodies
    judge = notes.PitchClassJudge(audio[:12], score[:12], RATE)
    right = judge.right(audio[12:], score[12:])
    assert right.value > 0.75 and right.low > 0.6 and right.clips == 4  # windows span two notes of 0.25 s
    wrong = judge.right(audio[12:], [[(on, length, pitch + 1, 0) for on, length, pitch, _ in s] for s in score[12:]])
    assert wrong.value < 0.15
    held, long = _melody(99, step=1.0)
    assert judge.right(held[None], [long]).value > 0.9


def test_a_judge_without_lone_notes_is_refused():
    chord = [(0.0, 4.0, 60, 0), (0.0, 4.0, 64, 1)]
    with pytest.raises(UserError, match="several notes sound one at a time"):
        notes.PitchClassJudge(np.zeros((1, SECONDS * RATE), np.float32), [chord], RATE)


def test_onsets_of_a_melody_and_of_nothing(melodies):
    audio, score = melodies
    assert notes.onset_f(audio[:4], score[:4], RATE).value > 0.9
    late = [[(on + 0.12, length, pitch, 0) for on, length, pitch, _ in s] for s in score[:4]]
    assert notes.onset_f(audio[:4], late, RATE).value < 0.3
    steady = 0.1 * np.sin(2 * np.pi * 440 * np.arange(SECONDS * RATE) / RATE)[None]
    assert len(notes.onsets(steady, RATE)[0]) <= 1
    assert len(notes.onsets(np.zeros((1, RATE)), RATE)[0]) == 0


def test_notes_of_a_chord_start_once():
    chord = [(0.5, 1.0, 60, 0), (0.51, 1.0, 64, 1), (0.6, 1.0, 67, 2), (9.0, 1.0, 67, 2)]
    assert notes.score_onsets(chord, 4.0).tolist() == [0.5, 0.6]


def test_chroma_knows_a_rendition_from_another_tune(melodies):
    audio, score = melodies
    noise = 1e-3 * np.random.default_rng(0).standard_normal(audio.shape).astype(np.float32)
    heard, again, silence = (
        spectra.chroma(spectra.bands(x, RATE)) for x in (audio, 0.5 * audio + noise, np.zeros_like(audio))
    )
    asked = np.stack([notes.sounding(clip, heard.shape[1]) for clip in score]).astype(np.float32)
    cosine = notes.chroma_cosine
    assert cosine(heard, again).value > 0.95 and cosine(heard, np.roll(heard, 1, 0)).value < 0.5
    assert cosine(asked, heard).value > 0.6 and cosine(np.roll(asked, -1, 0), heard).value < 0.4
    assert cosine(heard, silence).value == 0.0


def test_a_mean_says_how_sure_it_is():
    few, many = mean(np.array([0.0, 1.0] * 4)), mean(np.array([0.0, 1.0] * 200))
    assert few.value == many.value == 0.5 and few.high - few.low > 0.5 > 0.11 > many.high - many.low > 0.09
    assert mean(np.ones(4)).low < 0.6  # four of four do not mean always
    weighted = mean(np.array([0.2, 0.8, 0.5]), np.array([1, 3, 0]))
    assert abs(weighted.value - 0.65) < 1e-9 and weighted.clips == 2
    assert mean(np.array([np.nan])).clips == 0 and np.isnan(mean(np.array([])).value)
