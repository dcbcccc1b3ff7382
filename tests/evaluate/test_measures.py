"""The judges: a figure that is missed says so, a classifier finds what is there and nothing where nothing is."""

import json

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.evaluate import families, measures, models
from melody_jax.evaluate.figures import Figure, table, write_report

RATE = 24_000


def _tones(count: int, partials: list[int], seed: int) -> np.ndarray:
    """One-second tones of random pitch and level whose timbre is the list of partials."""
    rng = np.random.default_rng(seed)
    t = np.arange(RATE) / RATE
    pitches = rng.uniform(150, 400, count)
    tones = np.stack([sum(np.sin(2 * np.pi * pitch * n * t) for n in partials) for pitch in pitches])
    return (tones * rng.uniform(0.02, 0.2, (count, 1)) + 1e-4 * rng.standard_normal(tones.shape)).astype(np.float32)


def test_figures_know_their_side_and_nan_never_reaches():
    assert Figure("lm", "x", 3.0, "-", 4.0, "<=").reached
    assert not Figure("lm", "x", 5.0, "-", 4.0, "<=").reached
    assert Figure("lm", "x", 5.0, "-", 4.0, ">=").reached
    assert not Figure("lm", "x", float("nan"), "-", 4.0, ">=").reached
    assert not Figure("lm", "x", float("nan"), "-", 4.0, "<=").reached


def test_the_report_holds_every_figure(tmp_path):
    rows = [Figure("lm", "perplexity", 3.25, "bigram 4.0", 4.0, "<="), Figure("dpd", "error", 0.9, "-", 0.5, "<=")]
    write_report(tmp_path, rows, {"lm": {"steps": 10, "seconds": 1.5}})
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["reached"] for row in report["figures"]] == [True, False]
    text = (tmp_path / "report.md").read_text()
    assert table(rows) in text and "steps 10, seconds 1.5" in text and "| NO" in text
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the report cannot be written to .*/file/x: Not a directory"):
        write_report(tmp_path / "file" / "x", rows, {})


def test_timbre_ignores_the_level():
    tone = _tones(2, [1, 2], 0)
    np.testing.assert_allclose(families.timbre(tone, RATE), families.timbre(0.5 * tone, RATE), atol=0.05)


def test_the_judge_hears_what_was_asked_and_only_that():
    kinds = {"flute": [1], "organ": [1, 2, 4, 8], "brass": [1, 3, 5, 7, 9]}
    real = np.concatenate([_tones(40, partials, i) for i, partials in enumerate(kinds.values())])
    other = np.concatenate([_tones(6, partials, 10 + i) for i, partials in enumerate(kinds.values())])
    labels, other_labels = np.repeat(list(kinds), 40), np.repeat(list(kinds), 6)
    judge = families.FamilyJudge(real, labels, RATE)
    assert judge.right(other, other_labels).value > 0.9
    assert judge.right(other, np.roll(other_labels, 6)).value < 0.1
    assert judge.right(other[:6], other_labels[:6]).value > 0.6  # too few to have units of their own


def test_family_from_codes_needs_the_codes_to_tell():
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"] * 20)
    telling = np.stack([rng.integers(8 * i, 8 * i + 8, 50) for i in list(range(3)) * 20])
    mute = rng.integers(0, 24, (60, 50))
    used, found = measures.codes(telling[:30], labels[:30], telling[30:], labels[30:], 24)
    assert used.value == 1.0 and found.value == 1.0
    _, guessed = measures.codes(mute[:30], labels[:30], mute[30:], labels[30:], 24)
    assert not guessed.reached
    unused, _ = measures.codes(telling[:30], labels[:30], telling[30:], labels[30:], 48)
    assert unused.value == 0.5 and not unused.reached


def test_retrieval_and_diffusion_bounds():
    rng = np.random.default_rng(0)
    music = rng.standard_normal((100, 16)).astype(np.float32)
    music /= np.linalg.norm(music, axis=1, keepdims=True)
    assert measures.text_to_music_retrieval(music, music)[0].value == 1.0
    assert not measures.text_to_music_retrieval(np.roll(music, 1, axis=0), music)[0].reached
    better, ignored = measures.diffusion(np.array([[0.4, 0.4, 0.6], [0.6, 0.6, 0.6]]))
    assert better.value == 0.5 and better.reached and ignored.value == 1.0 and not ignored.reached
    assert better.interval == (0.4, 0.6)


def test_reconstruction_counts_the_spectrum_alone():
    audio = _tones(3, [1, 2, 3], 3)
    (same,) = measures.reconstruction(audio, -audio, RATE)  # other phases, the same sound
    assert same.value < 1e-3 and same.reached
    (noise,) = measures.reconstruction(audio, np.roll(audio, 1, axis=0), RATE)
    assert noise.value > 10 * same.value + 0.1


def test_of_few_clips_no_more_is_asked_than_they_can_show():
    rng = np.random.default_rng(0)
    music = rng.standard_normal((8, 16)).astype(np.float32)
    music /= np.linalg.norm(music, axis=1, keepdims=True)
    (found,) = measures.text_to_music_retrieval(music, music)
    assert found.name == "text-to-music R@1 of 8 clips" and found.reached
    assert not measures.text_to_music_retrieval(np.roll(music, 1, axis=0), music)[0].reached
    labels, tokens = np.array(["a", "b"] * 4), rng.integers(0, 1000, (8, 50))
    assert measures.codes(tokens, labels, tokens, labels, 1000)[0].reached


def test_a_mean_of_few_clips_says_how_sure_it_is():
    """From two clips on there are batches to compare; many clips are in batches as large as ever."""
    sizes = {clips: models.diffusion_batch(clips) for clips in (1, 2, 5, 9, 31, 32, 200)}
    assert sizes == {1: 1, 2: 1, 5: 1, 9: 2, 31: 7, 32: models.BATCH, 200: models.BATCH} and models.BATCH == 8


def test_one_clip_says_how_little_it_says():
    rng = np.random.default_rng(0)
    (retrieved,) = measures.text_to_music_retrieval(np.ones((1, 4), np.float32), np.ones((1, 4), np.float32))
    train, tokens = rng.integers(0, 9, (5, 50)), rng.integers(0, 9, (1, 50))
    perplexity, shuffled = measures.language_model(np.array([2.0]), np.array([2.0]), train, tokens, 9)
    error, ignored = measures.diffusion(np.array([[0.5, 0.5, 0.6]]))
    _, family = measures.codes(train, ["a", "b", "a", "b", "a"], tokens, ["a"], 9)
    for figure in (retrieved, shuffled, ignored, family):
        assert figure.lacks and not figure.reached and not figure.missed
    assert "0.5 (one clip)" in table([error])
    assert error.reached and perplexity.value == pytest.approx(np.exp(2))
    text = table([perplexity, retrieved])
    assert "7.389 (one clip)" in text and "not measured: it takes two held-out clips" in text
    assert retrieved.json() | {"stage": "", "name": "", "lacks": ""} == {
        "stage": "", "name": "", "value": None, "baseline": "-", "bound": None, "sense": ">=", "interval": None,
        "lacks": "", "reached": None,
    }  # fmt: skip


def test_a_model_that_breaks_on_one_clip_is_broken():
    tokens = np.zeros((4, 50), int)
    perplexity, _ = measures.language_model(np.array([1.0, np.nan, 1.0, 1.0]), np.ones(4), tokens, tokens, 9)
    assert perplexity.missed and "| nan " in table([perplexity]) and perplexity.json()["value"] is None


def test_figures_say_how_sure_they_are():
    rng = np.random.default_rng(1)
    train, tokens = rng.integers(0, 9, (5, 50)), rng.integers(0, 9, (30, 50))
    own = rng.normal(2.0, 0.1, 30)
    perplexity, _ = measures.language_model(own, own, train, tokens, 9)
    low, high = perplexity.interval
    assert low < perplexity.value < high < low + 1 and f"({low:.3g} to {high:.3g})" in table([perplexity])
