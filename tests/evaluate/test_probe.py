"""Probes read from tokens what is in them and nothing else."""

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.evaluate import adherence, distances, links, probe

CODES = 24


def _clips(count: int, seed: int, frames: int = 50):
    """Tokens of two levels: the first is the pitch class in one of two octaves, the second noise; notes of 5 frames."""
    rng = np.random.default_rng(seed)
    pitches = rng.integers(60, 72, (count, frames // 5))
    notes = [[(i * 0.2, 0.2, int(pitch), 0) for i, pitch in enumerate(row)] for row in pitches]
    first = np.repeat(pitches % 12, 5, axis=1) + 12 * rng.integers(0, 2, (count, frames))
    return np.stack([first, rng.integers(0, CODES, (count, frames))], axis=-1), notes


def test_pitch_classes_are_read_where_they_are():
    tokens, notes = _clips(20, 0)
    unseen, unseen_notes = _clips(6, 1)
    assert probe.PitchClassProbe(tokens, notes, CODES).right(unseen, unseen_notes).value > 0.99
    assert probe.PitchClassProbe(tokens[..., 0], notes, CODES).right(unseen[..., 0], unseen_notes).value > 0.99
    assert probe.PitchClassProbe(tokens[..., 1], notes, CODES).right(unseen[..., 1], unseen_notes).value < 0.25


def test_neighbours_are_read_if_asked_for():
    tokens, notes = _clips(20, 0)
    later = np.roll(tokens, 1, axis=1)  # every frame holds what belongs to the frame before
    unseen, unseen_notes = _clips(6, 1)
    alone = probe.PitchClassProbe(later, notes, CODES).right(np.roll(unseen, 1, axis=1), unseen_notes).value
    beside = probe.PitchClassProbe(later, notes, CODES, context=1).right(np.roll(unseen, 1, axis=1), unseen_notes).value
    assert alone < 0.87 and beside > 0.95


def test_families_and_spectra_are_read_from_codes():
    rng = np.random.default_rng(0)
    names = np.array(["a", "b"] * 20)
    tokens = rng.integers(0, 12, (40, 50, 2)) + 12 * (names == "b")[:, None, None]
    assert probe.FamilyProbe(tokens[:30], names[:30], CODES).right(tokens[30:], names[30:]).value == 1.0
    table = rng.standard_normal((2, CODES, 5))
    bands = table[0][tokens[..., 0]] + table[1][tokens[..., 1]]
    read = probe.SpectrumProbe(tokens[:30], bands[:30], CODES).spectrum(tokens[30:])
    assert np.abs(read - bands[30:]).mean() < 0.05 * np.abs(bands).mean()


REST, RATE = 24, 24_000


def _melodies(count: int, seed: int):
    """Tokens [n, 250, 1] of notes and rests in a key, their sound, keys, tempi and families: code 12 f + p is the pitch
    class p as family f plays it (the second with an octave above)."""
    rng = np.random.default_rng(seed)
    keys, beats = rng.integers(0, 12, count), rng.choice([12, 15, 20], count)  # frames of a beat
    families = np.arange(count) % 2
    tokens = np.full((count, 250), REST)
    for row, (tonic, beat, family) in enumerate(zip(keys, beats, families, strict=True)):
        for i, start in enumerate(range(0, 250, beat)):
            degree = (0, 4, 7, 0, 5, 9, 11, 0, 2, 7, 4, 0)[i % 12]
            tokens[row, start : start + beat // 2] = 12 * family + (tonic + degree) % 12
    sounding, family, pitch = tokens != REST, tokens // 12 == 1, tokens % 12
    frames = sounding, sounding & family, 2 * np.pi * 440 * 2 ** ((pitch - 9) / 12) / RATE
    first, octave, step = (np.repeat(x, RATE // 25, axis=1) for x in frames)
    phase = np.cumsum(step, axis=1)
    audio = (0.3 * (first * np.sin(phase) + octave * np.sin(2 * phase))).astype(np.float32)
    return (
        tokens[..., None],
        audio,
        [(int(k), "major") for k in keys],
        60 * 25 / beats,
        [f"family {f}" for f in families],
    )


def test_key_tempo_and_family_are_read_from_tokens_alone():
    tokens, audio, *_, families = _melodies(40, 0)
    reader = probe.MusicProbe(tokens, audio, ["", *families[1:]], REST + 1, RATE)
    unseen, _, keys, tempi, families = _melodies(12, 1)
    assert reader.families(unseen) == families
    assert np.mean([heard == key for heard, key in zip(reader.keys(unseen), keys, strict=True)]) > 0.7
    assert adherence.tempo_right(reader.tempi(unseen), tempi).mean() > 0.8
    assert not adherence.tempo_right(reader.tempi(unseen), 1.23 * tempi).any()


def test_levels_are_told_from_their_ids():
    written = np.array([[3, 8 + 1, 0, 8 + 7]])  # moment by moment, the second level from 8 on
    assert links.by_level(written, 2, 8).tolist() == [[[3, 1], [0, 7]]]


def test_a_probe_without_solos_is_refused():
    tokens, _ = _clips(2, 0)
    with pytest.raises(UserError, match="solos"):
        probe.PitchClassProbe(tokens, [[], []], CODES)


def test_mauve_is_that_of_its_authors():
    """0.06080752: what mauve-text 0.4.0 gives for these two clusters, 10 and 10 pieces in one set, 15 and 5 in the other."""
    rng = np.random.default_rng(0)
    sets = [np.repeat(np.eye(4)[:2], counts, axis=0) for counts in ([10, 10], [15, 5])]
    made, real = (rows + 1e-3 * rng.standard_normal(rows.shape) for rows in sets)
    np.testing.assert_allclose(distances.mauve_divergence(made, real), 0.06080752, rtol=1e-6)


def test_distances_of_equal_sets_are_small_and_grow_with_what_differs():
    rng = np.random.default_rng(0)
    real, other = rng.standard_normal((2, 200, 8)).astype(np.float32)
    assert abs(distances.kernel_distance(other, real)) < 1.0
    assert distances.kernel_distance(other + 1.0, real) > 10.0
    shifted = distances.frechet(other + 1.0, real) - distances.frechet(other, real)
    assert 6.0 < shifted < 10.0  # 8 dimensions, each moved by 1
    # of N(0, 1) and N(0, 4) in one dimension: (2 - 1)^2
    wide, narrow = 2 * rng.standard_normal((20_000, 2)), rng.standard_normal((20_000, 2))
    assert abs(distances.frechet(wide, narrow) - 2.0) < 0.1
    assert distances.mauve_divergence(other + 1.0, real) > 10 * abs(distances.mauve_divergence(other, real))
    unit = real / np.linalg.norm(real, axis=1, keepdims=True)
    assert abs(distances.cycle_consistency(unit, unit).value - 1.0) < 1e-6
    assert distances.apart(np.eye(3, 8)).tolist() == [1.0, 1.0, 1.0] and np.isnan(distances.apart(unit[:1])).all()
    np.testing.assert_allclose(distances.apart(np.eye(4, 8)[[0, 0, 1]]), [0.5, 0.5, 1.0])
    opposite = np.concatenate([unit[:1], -unit[1:2]])
    assert abs(distances.cycle_consistency(unit[:2], opposite).value) < 1e-6
