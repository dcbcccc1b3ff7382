"""What a source hands to the data set: one clip of sound, its captions and, where it is known, the truth about it."""

import dataclasses
import math

import numpy as np

from melody_jax.codes.control_words import key_of, metre_of
from melody_jax.codes.controls import FASTEST, SLOWEST, Controls
from melody_jax.codes.instruments import NAMES


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is known for certain of a clip, because it was rendered from a score.

    Attributes:
        instruments: names of the instruments heard, the leading one first.
        family: instrument family of the leading instrument ("strings", "brass", ...).
        families: every family heard, without repeats, the leading one first.
        tempo: beats per minute; 0 where unknown.
        key: tonic ("D", "B-flat", ...); "" where unknown.
        mode: "major", "minor", "dorian", ...; "" where unknown.
        rhythm: dance or metre ("waltz", "reel", ...); "" where unknown.
        texture: "solo", "melody with chords", ...; "" where unknown.
        mood: words for the mood, possibly none.
        metre: "3/4", "6/8", ...; "" where unknown.
        downbeat: seconds from the start to the first beat of a bar; NaN where unknown.
        notes: (onset in seconds, duration in seconds, MIDI pitch, number of the part) of every pitched note, drums left
            out; part 0 leads.
    """

    instruments: tuple[str, ...]
    family: str
    families: tuple[str, ...]
    tempo: float
    key: str
    mode: str
    rhythm: str
    texture: str
    mood: tuple[str, ...]
    metre: str = ""
    downbeat: float = math.nan
    notes: tuple[tuple[float, float, int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip of sound as a source delivers it.

    Attributes:
        id: unique in its data set and stable between builds.
        audio: float32 [T], mono, at the data set's rate, in [-1, 1].
        captions: one or more sentences about the clip.
        tune: what the clip was taken from (a tune, a file); clips of one tune never stand in two splits.
        source: where it comes from ("corpus/ryansMammoth", "folder", ...).
        licence: licence of the sound as its source states it; "" where unknown.
        truth: the ground truth, or None for sound that was not rendered here.
        told: where there is no truth, the controls that the text beside the sound tells.
    """

    id: str
    audio: np.ndarray
    captions: tuple[str, ...]
    tune: str
    source: str
    licence: str
    truth: Truth | None = None
    told: Controls = Controls()

    @property
    def controls(self) -> Controls:
        """What the language model is told of the clip: all of the truth's, else as much as the text beside it tells."""
        return self.told if self.truth is None else _controls_of(self.truth)


def _controls_of(truth: Truth) -> Controls:
    known = tuple(name for name in truth.instruments if name in NAMES)
    return Controls(
        tempo=truth.tempo if SLOWEST <= truth.tempo <= FASTEST else None,
        key=key_of(f"{truth.key} {truth.mode}"),
        metre=metre_of(truth.metre),
        drums="drums" in truth.instruments,
        instruments=known,
        only=len(known) == len(set(truth.instruments) - {"drums"}),
        downbeat=None if math.isnan(truth.downbeat) else truth.downbeat,
    )
