"""Holes and clicks, put where there were none."""

import numpy as np

from melody_jax.evaluate import faults, memorisation

RATE = 24_000


def _music(seed: int = 0, seconds: float = 2.0) -> np.ndarray:
    """Notes with attacks of a few milliseconds and many partials, over faint noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    audio = 1e-4 * rng.standard_normal(t.shape)
    for onset in np.arange(0, seconds, 0.25):
        after = np.maximum(t - onset, 0)
        shape = (1 - np.exp(-after / 0.003)) * np.exp(-after / 0.3) * (t >= onset)
        pitch = rng.uniform(200, 600)
        audio += 0.1 * shape * sum(np.sin(2 * np.pi * n * pitch * after) / n for n in range(1, 8))
    return audio.astype(np.float32)


def test_music_with_attacks_has_no_click_and_a_jump_is_one():
    for seed in range(5):
        audio = _music(seed)
        assert len(faults.clicks(audio)) == 0
        broken = audio.copy()
        broken[20_000:30_000] += 0.2 * np.abs(audio).max()  # jumps there and back
        assert np.abs(faults.clicks(broken)[:, None] - [20_000, 30_000]).min(axis=0).max() <= 2
        broken = audio.copy()
        broken[33_333] += 0.2 * np.abs(audio).max()  # one sample
        assert np.abs(faults.clicks(broken) - 33_333).min() <= 2 and len(faults.clicks(broken)) == 1


def test_clicks_depend_on_the_piece_not_on_its_level():
    broken = _music()
    broken[20_000:] += 0.2 * np.abs(broken).max()
    (loud,), (soft,) = faults.clicks(broken), faults.clicks(0.05 * broken)
    assert abs(loud - soft) <= 1
    assert len(faults.clicks(np.zeros(3, np.float32))) == 0 == len(faults.clicks(np.zeros(RATE, np.float32)))


def test_gaps_are_as_long_as_they_are():
    audio = np.stack([_music(seed) for seed in range(3)])
    audio[1, RATE // 2 : RATE // 2 + int(0.8 * RATE)] = 0.0
    audio[2] = 0.0
    found = faults.longest_gap(audio, RATE)
    assert found[0] == 0.0 and abs(found[1] - 0.8) <= 0.04 and found[2] == 2.0


def test_repeats_by_level():
    tokens = np.array([[[1, 1], [1, 2], [3, 2], [3, 2], [3, 2]]])
    np.testing.assert_allclose(memorisation.repeats(tokens), [[0.75, 0.75]])
    np.testing.assert_allclose(memorisation.repeats(tokens[..., 0]), [0.75])


def _longest_in_common(clip: np.ndarray, others: np.ndarray) -> int:
    """By comparing everything with everything."""
    longest = 0
    for other in others:
        for i in range(len(clip)):
            for j in range(len(other)):
                k = 0
                while i + k < len(clip) and j + k < len(other) and clip[i + k] == other[j + k]:
                    k += 1
                longest = max(longest, k)
    return longest


def test_longest_shared_runs_are_those_of_exhaustive_search():
    rng = np.random.default_rng(0)
    for _ in range(20):
        others = rng.integers(0, 3, (rng.integers(1, 6), rng.integers(1, 17)))
        clips = rng.integers(0, 3, (rng.integers(1, 5), rng.integers(1, 17)))
        length, whose = memorisation.longest_shared(clips, others)
        for i, clip in enumerate(clips):
            assert length[i] == _longest_in_common(clip, others)
            assert not length[i] or _longest_in_common(clip, others[whose[i]][None]) == length[i]


def test_a_copied_passage_is_found_and_runs_do_not_cross_clips():
    rng = np.random.default_rng(0)
    others, clips = rng.integers(0, 512, (50, 250)), rng.integers(0, 512, (3, 250))
    clips[1, 30:100] = others[7, 100:170]
    clips[2, :20] = np.concatenate([others[3, -10:], others[4, :10]])
    length, whose = memorisation.longest_shared(clips, others)
    assert length[1] == 70 and whose[1] == 7 and length[2] == 10 and length[0] < 6
