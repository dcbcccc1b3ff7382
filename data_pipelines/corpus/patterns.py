"""How chords, bass and drums move in a bar: patterns by metre, in ticks."""

import numpy as np

from data_pipelines.corpus.harmony import Chord, voicing

# General MIDI percussion.
KICK, STICK, SNARE, CLOSED_HAT, OPEN_HAT, RIDE, TAMBOURINE, SHAKER, LOW_TOM = 36, 37, 38, 42, 46, 51, 54, 70, 45

STYLES = ("sustained", "off-beat", "arpeggio", "pulse")


def chord_part(chords: list[Chord], style: str, beat: int, bar: int, centre: int) -> np.ndarray:
    """Notes [n, 3] (onset, duration, pitch) of a player who holds, plucks or breaks the chords.

    Args:
        style: one of STYLES: held chords; after the bass on the weak beats; broken, a tone to each half or third of a
            beat; struck on every beat.
        beat, bar: ticks.
        centre: pitch around which the chords lie.
    """
    rows, previous = [], None
    for chord in chords:
        previous = voicing(chord, previous, centre)
        if style == "sustained":
            rows += [(chord.start, chord.end - chord.start, pitch) for pitch in previous]
        elif style == "arpeggio":
            part = beat // (3 if beat % 720 == 0 else 2)
            order = (0, 1, 2, 1) if part * 3 != beat else (0, 1, 2)
            for number, onset in enumerate(range(chord.start, chord.end, part)):
                rows.append((onset, min(2 * part, chord.end - onset), previous[order[number % len(order)]]))
        else:
            for onset, duration in _strokes(chord, style, beat, bar):
                rows += [(onset, duration, pitch) for pitch in previous]
    return np.array(rows, np.int32).reshape(-1, 3)


def _strokes(chord: Chord, style: str, beat: int, bar: int) -> list[tuple[int, int]]:
    """(onset, duration) of struck chords: on every beat, or wherever the bass is silent."""
    if style == "pulse":
        return [(onset, beat * 4 // 5) for onset in range(chord.start, chord.end, beat)]
    if bar // beat == 3:  # oom-pah-pah
        return [(onset, beat // 2) for onset in range(chord.start, chord.end, beat) if onset % bar]
    late = 2 * beat // 3 if beat % 720 == 0 else beat // 2
    return [(onset + late, (beat - late) * 4 // 5) for onset in range(chord.start, chord.end, beat)]


def bass_part(chords: list[Chord], style: str, beat: int, bar: int, low: int) -> np.ndarray:
    """Notes [n, 3] of a bass in the octave above `low`: roots held, or roots and fifths in turn on the beats."""
    rows = []
    for chord in chords:
        root = low + (chord.root - low) % 12
        fifth = root + 7 if root + 7 <= low + 14 else root - 5
        if style in ("sustained", "arpeggio"):
            rows.append((chord.start, chord.end - chord.start, root))
            continue
        apart = bar if bar // beat == 3 else beat
        for number, onset in enumerate(range(chord.start, chord.end, apart)):
            rows.append((onset, beat * 9 // 10, root if number % 2 == 0 else fifth))
    return np.array(rows, np.int32).reshape(-1, 3)


def drum_part(rng: np.random.Generator, length: int, beat: int, bar: int) -> np.ndarray:
    """Notes [n, 4] (onset, duration, drum, velocity) of a drummer in one of four manners, with a fill now and then."""
    part = beat // (3 if beat % 720 == 0 else 2)
    beats = bar // beat
    ticking, backbeat = [(CLOSED_HAT, SNARE), (RIDE, STICK), (SHAKER, TAMBOURINE), (CLOSED_HAT, STICK)][rng.integers(4)]
    fill_bar = int(rng.integers(3, 5))
    rows = []
    for number, start in enumerate(range(0, length, bar)):
        for onset in range(start, start + bar, part):
            on_beat = (onset - start) % beat == 0
            rows.append((onset, part, ticking, 78 if on_beat else 58))
        for which in range(beats):
            onset = start + which * beat
            strong = which == 0 or (beats == 4 and which == 2)
            rows.append((onset, part, KICK, 100) if strong else (onset, part, backbeat, 88))
        if number % fill_bar == fill_bar - 1:
            last = start + bar - beat
            fill = enumerate((SNARE, SNARE, LOW_TOM, LOW_TOM))
            rows += [(last + beat * step // 4, part, drum, 80 + 5 * step) for step, drum in fill]
    rows = [row for row in rows if row[0] < length]
    return np.array(rows, np.int32).reshape(-1, 4)
