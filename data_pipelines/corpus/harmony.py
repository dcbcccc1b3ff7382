"""Chords for a melody by rule: diatonic triads, one to a half bar or bar, by dynamic programming."""

import dataclasses

import numpy as np

from data_pipelines.corpus.theory import Key

# Degrees (semitones above the tonic) of the triads of each mode, with their quality and how readily they are used.
_TRIADS = {
    "major": ((0, "M", 1.0), (5, "M", 0.8), (7, "M", 0.8), (9, "m", 0.35), (2, "m", 0.35), (4, "m", 0.1)),
    "minor": ((0, "m", 1.0), (5, "m", 0.7), (7, "M", 0.7), (10, "M", 0.5), (8, "M", 0.4), (3, "M", 0.5), (7, "m", 0.3)),
    "dorian": ((0, "m", 1.0), (10, "M", 0.8), (5, "M", 0.7), (3, "M", 0.4), (7, "m", 0.4)),
    "mixolydian": ((0, "M", 1.0), (10, "M", 0.8), (5, "M", 0.8), (7, "m", 0.3), (2, "m", 0.2)),
}
_FROM_DOMINANT = {0: 0.35, 9: 0.05, 8: 0.05, 5: -0.3, 2: -0.3, 10: -0.2}


@dataclasses.dataclass(frozen=True)
class Chord:
    """A triad between two times (ticks): its root and pitch classes, root first."""

    start: int
    end: int
    root: int
    classes: tuple[int, int, int]


def harmonise(melody: np.ndarray, key: Key, length: int, step: int) -> list[Chord]:
    """Triads of `key` under a melody, one for every `step` ticks.

    The score of a triad under a segment is the share of the melody's time on its tones less 0.8 of the share off it,
    plus how usual it is; changes are rewarded for a dominant that resolves. The best sequence is found by Viterbi.

    Args:
        melody: [n, 3] onset, duration (ticks), pitch.
        length: ticks to harmonise, from 0.
        step: ticks of a segment; a strong beat begins each.
    """
    triads = _TRIADS[key.mode]
    classes = [_classes(key.tonic, degree, quality) for degree, quality, _ in triads]
    starts = np.arange(0, length, step)
    emission = np.array([_fit(melody, int(start), step, classes) for start in starts])
    emission += 0.35 * np.array([weight for _, _, weight in triads])
    emission[0, 0] += 0.3
    moves = np.array([[_move(a[0], b[0], i == j) for j, b in enumerate(triads)] for i, a in enumerate(triads)])
    best, back = emission[0], []
    for row in emission[1:]:
        total = best[:, None] + moves
        back.append(total.argmax(0))
        best = total.max(0) + row
    path = [int(best.argmax())]
    for row in reversed(back):
        path.append(int(row[path[-1]]))
    return [
        Chord(int(start), int(min(start + step, length)), classes[state][0], classes[state])
        for start, state in zip(starts, reversed(path), strict=True)
    ]


def _classes(tonic: int, degree: int, quality: str) -> tuple[int, int, int]:
    root = tonic + degree
    return root % 12, (root + (4 if quality == "M" else 3)) % 12, (root + 7) % 12


def _fit(melody: np.ndarray, start: int, step: int, classes) -> np.ndarray:
    onset, end = melody[:, 0], melody[:, 0] + melody[:, 1]
    inside = np.clip(np.minimum(end, start + step) - np.maximum(onset, start), 0, None).astype(float)
    inside *= 1.0 + 0.5 * (onset == start)  # the note on the strong beat decides more
    total = inside.sum()
    if total == 0:
        return np.zeros(len(classes))
    sounding = np.bincount(melody[:, 2] % 12, weights=inside, minlength=12) / total
    share = np.array([sounding[list(triad)].sum() for triad in classes])
    return share - 0.8 * (1 - share)


def _move(before: int, after: int, same: bool) -> float:
    if same:
        return 0.05
    if before == 7:
        return _FROM_DOMINANT.get(after, 0.0)
    return 0.1 if (before, after) in {(5, 7), (2, 7), (9, 5), (0, 5), (5, 0), (10, 0)} else 0.0


def voicing(chord: Chord, previous: tuple[int, ...] | None, centre: int) -> tuple[int, ...]:
    """Three pitches of a chord, low to high: the inversion nearest to the previous one, else to `centre`."""
    options = []
    for inversion in range(3):
        order = chord.classes[inversion:] + chord.classes[:inversion]
        for lowest in range(centre - 12, centre + 6):
            if lowest % 12 != order[0]:
                continue
            pitches = [lowest]
            for pitch_class in order[1:]:
                pitches.append(pitches[-1] + (pitch_class - pitches[-1]) % 12)
            options.append(tuple(pitches))
    target = previous or (centre - 4, centre, centre + 4)
    distance = [
        sum(abs(a - b) for a, b in zip(option, target, strict=True)) + 0.5 * abs(sum(option) / 3 - centre)
        for option in options
    ]
    return options[int(np.argmin(distance))]


def second_voice(melody: np.ndarray, key: Key) -> np.ndarray:
    """A second voice in diatonic thirds below the melody (sixths where a third would leave the chord tone to doubt)."""
    ladder = sorted({pitch for pitch in range(12, 120) if pitch % 12 in key.scale})
    below = melody.copy()
    for row in below:
        at = int(np.searchsorted(ladder, row[2], side="right")) - 1
        row[2] = ladder[at - 2]
    return below
