"""Endless music: no seams, no growth, another prompt while it plays."""

import itertools

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.generate.loudness import CEILING, lufs
from melody_jax.generate.stream import _Finish
from tests.generate.conftest import GEOMETRY

RATE = 24_000


@pytest.fixture(scope="module")
def chunks(melody):
    """Ten chunks, and what the stream holds after each."""
    stream, made, held = melody.stream("a slow waltz", seed=3, loudness=None), [], []
    for _ in range(10):
        made.append(next(stream))
        held.append(sum(value.nbytes for value in vars(stream).values() if isinstance(value, np.ndarray)))
        held[-1] += stream._finish._held.nbytes
    assert stream.seconds == pytest.approx(sum(map(len, made)) / 4_000)
    return made, held


def test_memory_does_not_grow(chunks):
    _, held = chunks
    assert len(set(held[2:])) == 1


def test_there_is_no_seam(melody, chunks):
    """Where one window ends and the next one begins, level and spectrum change no more than elsewhere."""
    heard = np.concatenate(chunks[0])
    stride = melody._composer.window(melody.defaults)
    each = (stride[0] - stride[1]) * GEOMETRY.token_samples
    assert len({len(chunk) for chunk in chunks[0][1:]}) == 1 and len(chunks[0][1]) == each
    frames = np.lib.stride_tricks.sliding_window_view(heard, 80)[::8] * np.hanning(80)
    spectra = np.log(np.abs(np.fft.rfft(frames)) + 1e-2)
    change = np.abs(spectra[8:] - spectra[:-8]).mean(axis=1)
    level = np.abs(np.diff(np.log(np.square(frames).mean(axis=1) + 1e-4)))
    middles = (np.arange(len(change)) + 4) * 8 + 40
    near = np.abs((middles + each // 2) % each - each // 2) < 60
    near[middles < each // 2] = False
    assert near.sum() > 50
    assert change[near].mean() < 1.4 * change[~near].mean()
    assert level[: len(near)][near].mean() < 1.5 * level[: len(near)][~near].mean()


def test_the_same_seed_plays_the_same(melody, chunks):
    again = list(itertools.islice(melody.stream("a slow waltz", seed=3, loudness=None), 3))
    for first, second in zip(chunks[0], again, strict=False):
        np.testing.assert_array_equal(first, second)


def test_short_windows_draw_no_more_than_they_play(melody, monkeypatch):
    """The language model's sequences are longer than the diffusion's windows; what they begin with is the same."""
    whole, short = (melody.stream("a slow waltz", seed=3, window_seconds=seconds) for seconds in (0.0, 0.2))
    next(whole)
    write, lengths = melody.loaded.write_tokens, []
    monkeypatch.setattr(melody.loaded, "write_tokens", lambda *a: lengths.append(a[3]) or write(*a))
    made = [next(short)]
    np.testing.assert_array_equal(short._tokens, whole._tokens[:, :5])
    made += [next(short) for _ in range(3)]
    assert lengths == [5, 3, 3, 3]  # of five moments, two stand already
    assert sum(map(len, made[1:])) == 3 * 3 * GEOMETRY.token_samples


def test_the_prompt_may_change_while_it_plays(melody, chunks):
    stream = melody.stream("a slow waltz", seed=3, loudness=None)
    for expected in chunks[0][:2]:
        np.testing.assert_array_equal(next(stream), expected)
    stream.change("loud drums", lm_guidance=2.0)
    assert not np.array_equal(next(stream), chunks[0][2]) and stream.prompt == "loud drums"
    for change, words in (
        ({"prompt": " "}, "empty"),
        ({"steps": 0}, "steps"),
        ({"window_seconds": 1.0}, "window_seconds cannot change"),
        ({"overlap": 0.75}, "overlap cannot change"),
    ):
        with pytest.raises(UserError, match=words):
            stream.change(**change)
    assert stream.settings.steps == 3 and len(next(stream))


def test_level_and_limiter_do_not_hear_the_chunks():
    """In pieces or as one, the limiter gives the same; the level moves slowly to what was asked for."""
    rng = np.random.default_rng(0)
    audio = (0.3 * rng.normal(size=8 * RATE)).astype(np.float32)
    audio[::RATE] = 3.0

    class Level(_Finish):
        def _level(self, chunk):
            return 1.0

    whole, pieces = Level(-16.0, RATE), Level(-16.0, RATE)
    at_once = whole(audio)
    parts = np.concatenate([pieces(part) for part in np.split(audio, 8)])
    length = min(len(parts), len(at_once))
    assert length > 7.9 * RATE
    np.testing.assert_allclose(parts[:length], at_once[:length], atol=1e-3)
    assert np.abs(parts).max() <= CEILING and np.abs(at_once).max() <= CEILING

    level = _Finish(-16.0, RATE)
    made = [level((0.05 * rng.normal(size=RATE)).astype(np.float32)) for _ in range(6)]
    assert lufs(made[-1], RATE) == pytest.approx(-16.0, abs=1.0)
