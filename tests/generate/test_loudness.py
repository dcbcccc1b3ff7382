"""Loudness against pyloudnorm, the limiter against a dense resampling, joints against the samples they join."""

import numpy as np
import pyloudnorm
import pytest
import soxr

from melody_jax.generate.loudness import CEILING, brought_to, faded, limited, limiter_gain, lufs
from melody_jax.generate.splice import levelled, spliced
from melody_jax.generate.windows import runs, starts

RATE = 24_000


def music(seconds=5.0, seed=0, rate=RATE):
    """Tones that come and go, and some noise."""
    rng, t = np.random.default_rng(seed), np.arange(int(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * hz * t) * (t % length < 0.4 * length) for hz, length in ((110, 1.0), (440, 0.7)))
    return (0.1 * tones + 0.01 * rng.normal(size=t.size)).astype(np.float32)


def plucks(seconds=5.0):
    """High peaks, little between."""
    t = np.arange(int(seconds * RATE)) / RATE
    return (np.exp(-30 * (t % 0.5)) * np.sin(2 * np.pi * 523 * t)).astype(np.float32)


@pytest.mark.parametrize("rate", [4_000, 24_000, 44_100, 48_000])
def test_loudness_is_that_of_pyloudnorm(rate):
    """Its filter class of the same design; at 48 kHz the standard's own coefficients, too."""
    audio = music(rate=rate)
    reference = pyloudnorm.Meter(rate, filter_class="DeMan").integrated_loudness(audio.astype(float))
    assert lufs(audio, rate) == pytest.approx(reference, abs=1e-3)
    assert lufs(audio, rate) == pytest.approx(pyloudnorm.Meter(rate).integrated_loudness(audio.astype(float)), abs=0.6)


def test_silence_and_short_music():
    assert lufs(np.zeros(RATE, np.float32), RATE) == lufs(np.zeros(0, np.float32), RATE) == -np.inf
    short = music(0.2)
    assert np.isfinite(lufs(short, RATE))
    np.testing.assert_array_equal(brought_to(np.zeros(RATE, np.float32), RATE, -16.0), 0)


@pytest.mark.parametrize("make", [music, plucks])
@pytest.mark.parametrize("gain", [0.05, 1.0, 8.0])
def test_pieces_come_to_the_level_and_below_the_ceiling(make, gain):
    made = brought_to(np.float32(gain) * make(), RATE, -16.0)
    assert lufs(made, RATE) == pytest.approx(-16.0, abs=1.0)
    assert np.abs(soxr.resample(made, RATE, 8 * RATE, "VHQ")).max() < CEILING * 1.005


def test_the_limiter_leaves_alone_what_is_below_the_ceiling():
    quiet = music()
    np.testing.assert_array_equal(limited(quiet, RATE), quiet)
    loud = quiet.copy()
    loud[RATE : RATE + 100] *= 20
    gain = limiter_gain(loud, RATE)
    far = np.abs(np.arange(len(loud)) - RATE) > RATE // 20
    assert (gain[far] == 1).all() and gain.min() < 0.9
    assert np.abs(np.diff(gain)).max() < 0.02  # it turns down, it does not cut


def test_ends_fade():
    ones = np.ones(RATE, np.float32)
    made = faded(ones, RATE, True, True)
    assert abs(made[0]) < 1e-3 and abs(made[-1]) < 1e-3 and (made[300:-300] == 1).all()
    np.testing.assert_array_equal(faded(ones, RATE, False, False), ones)
    assert len(faded(ones[:1], RATE, True, True)) == 1


def test_what_is_spliced_keeps_every_other_sample():
    old, new = music(2.0), music(2.0, seed=1)
    spans = [(0, 3_000), (10_000, 20_000), (30_000, 30_001), (47_000, 48_000)]
    made = spliced(old, new, spans, RATE)
    inside = np.zeros(len(old), bool)
    for begin, end in spans:
        inside[begin:end] = True
    np.testing.assert_array_equal(made[~inside], old[~inside])
    np.testing.assert_array_equal(made[10_480:18_080], new[10_480:18_080])  # 20 ms to it, 80 ms back
    np.testing.assert_allclose(made[19_040], (old[19_040] + new[19_040]) / 2, atol=1e-3)
    np.testing.assert_array_equal(made[:1_500], new[:1_500])  # nothing to fade from at the beginning
    steps = np.abs(np.diff(spliced(np.ones(RATE, np.float32), np.zeros(RATE, np.float32), [(5_000, 9_000)], RATE)))
    assert steps.max() < 0.01
    longer = spliced(old[:24_000], new, [(23_520, 48_000)], RATE)
    np.testing.assert_array_equal(longer[:23_520], old[:23_520])
    np.testing.assert_array_equal(longer[24_000:], new[24_000:])


def test_new_spans_are_as_loud_as_what_is_beside_them():
    old = np.concatenate([0.1 * np.ones(2 * RATE), 0.3 * np.ones(3 * RATE)]).astype(np.float32)
    new = 0.2 * np.ones(8 * RATE, np.float32)
    spans = [(0, RATE), (5 * RATE // 2, 4 * RATE), (5 * RATE, 8 * RATE)]
    made = levelled(old, new, spans, RATE)
    wanted = [0.1, np.sqrt((0.1**2 + 3 * 0.3**2) / 4), 0.3]  # the seconds around the second one lie in both parts
    for (begin, end), level in zip(spans, wanted, strict=True):
        np.testing.assert_allclose(made[begin:end], level, rtol=1e-4)
    np.testing.assert_array_equal(made[RATE : 2 * RATE], new[RATE : 2 * RATE])


def test_what_cannot_be_compared_is_left_as_it_is():
    old, span = music(2.0), [(20_000, 30_000)]
    new = music(2.0, seed=1)
    np.testing.assert_array_equal(levelled(old, new, [(0, len(old))], RATE), new)  # nothing beside it
    np.testing.assert_array_equal(levelled(0 * old, new, span, RATE), new)
    np.testing.assert_array_equal(levelled(old, 0 * new, span, RATE), 0 * new)
    rest = levelled(old, 1e-2 * old, span, RATE)[20_000:30_000]
    np.testing.assert_allclose(rest, 2e-2 * old[20_000:30_000], rtol=1e-5)  # a rest stays one


@pytest.mark.parametrize("count, size, overlap", [(1, 10, 5), (10, 10, 5), (37, 10, 4), (50, 10, 1), (9, 2, 1)])
def test_windows_make_all_that_is_new(count, size, overlap):
    rng = np.random.default_rng(count)
    flags = [
        np.ones(count, bool),
        rng.random(count) < 0.3,
        np.arange(count) >= count // 2,
        np.arange(count) == count - 1,
    ]
    for new in flags:
        covered = np.zeros(count + size, bool)
        places = starts(new, size, overlap)
        for place in places:
            assert 0 <= place <= max(0, count - size) and new[place : place + size].any()
            covered[place : place + size] = True
        assert covered[:count][new].all() and len(places) <= max(1, new.sum())
    assert starts(np.zeros(count, bool), size, overlap) == []
    assert sum(end - begin for begin, end in runs(flags[1])) == flags[1].sum()


def test_windows_keep_what_they_overlap():
    """Long music goes on from half a window, and its last one ends with it; a span that fits stands in the middle."""
    assert starts(np.ones(30, bool), 10, 4) == [0, 6, 12, 18, 20]
    assert starts(np.isin(np.arange(40), [20, 21]), 10, 4) == [16]


@pytest.mark.parametrize("overlap", [16, 32])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 50, 64, 65, 75, 97])
def test_the_joint_at_a_spans_end_is_made_in_sight_of_both_sides(length, overlap):
    """However long a span is: each window sees what is before it, and the last one what comes after the span."""
    size, begin = 64, 100
    new = np.isin(np.arange(300), np.arange(begin, begin + length))
    places, made = starts(new, size, overlap), begin
    for place in places:
        assert made - place >= overlap // 2
        made = min(place + size, begin + length)
    assert places[-1] + size - made >= overlap // 2
