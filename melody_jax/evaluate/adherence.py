"""What music is like and whether it is what was asked: key, tempo, metre, lengths of notes, scale, gaps, clicks, repeats.

Everything works on what `spectra` hears (chroma at FRAME_RATE, onset strength at FLUX_RATE), on samples or on tokens.
"""

import dataclasses

import numpy as np

from melody_jax.evaluate import spectra
from melody_jax.evaluate.spectra import FLUX_RATE, FRAME_RATE
from melody_jax.shapes import Float, Int

LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
ACCIDENTALS = {"": 0, "sharp": 1, "flat": -1}
THIRDS = {"minor": "minor", "dorian": "minor", "aeolian": "minor", "phrygian": "minor"}  # all others are major
# Krumhansl and Kessler (1982): how well each degree, in semitones above the tonic, fits a key.
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
SCALE = (0, 2, 4, 5, 7, 9, 11)
SLOWEST, FASTEST = 40.0, 210.0  # beats per minute
TEMPO_TOLERANCE = 0.08
USUAL_TEMPO, TEMPO_SPREAD = 95.0, 0.6  # centre (beats per minute) and deviation (octaves) of the preference


@dataclasses.dataclass(frozen=True)
class Heard:
    """What is heard of n clips, the same instants for all measures.

    Attributes:
      chroma: [n, F, 12] at FRAME_RATE.
      strength: [n, instants] of onsets at FLUX_RATE.
    """

    chroma: Float[np.ndarray, "n F 12"]
    strength: Float[np.ndarray, "n instants"]


def listen(audio: Float[np.ndarray, "n T"], sample_rate: int) -> Heard:
    """Chroma and onset strength of clips."""
    return Heard(spectra.chroma(spectra.bands(audio, sample_rate)), spectra.onset_strength(audio, sample_rate))


def pitch_class(tonic: str) -> int:
    """0 for C, 10 for B-flat.

    Raises:
      KeyError: no such tonic.
    """
    letter, _, accidental = tonic.partition("-")
    return (LETTERS[letter] + ACCIDENTALS[accidental]) % 12


def keys(chroma: Float[np.ndarray, "n F 12"]) -> list[tuple[int, str]]:
    """Tonic (pitch class) and mode ("major", "minor") of each clip (Krumhansl and Schmuckler)."""
    profiles = np.stack([np.roll(PROFILES[mode], tonic) for mode in PROFILES for tonic in range(12)])
    profiles = profiles - profiles.mean(1, keepdims=True)
    profiles /= np.linalg.norm(profiles, axis=1, keepdims=True)
    # cubes of what is relative to the strongest pitch class of a frame: overtones and room count little
    totals = np.mean((chroma / np.maximum(chroma.max(-1, keepdims=True), 1e-9)) ** 3, axis=1)
    totals = totals - totals.mean(1, keepdims=True)
    best = np.argmax(totals @ profiles.T, axis=1)
    return [(int(i) % 12, tuple(PROFILES)[int(i) // 12]) for i in best]


def key_score(heard: tuple[int, str], asked: tuple[int, str]) -> float:
    """MIREX: 1 for the key, 0.5 a fifth off, 0.3 its relative, 0.2 its parallel, else 0."""
    (tonic, mode), (wanted, wanted_mode) = heard, asked
    apart = (tonic - wanted) % 12
    if mode == wanted_mode:
        return {0: 1.0, 7: 0.5, 5: 0.5}.get(apart, 0.0)
    relative = 9 if wanted_mode == "major" else 3
    return 0.3 if apart == relative else 0.2 if apart == 0 else 0.0


def plain_mode(mode: str) -> str:
    """ "major" or "minor": the third that a church mode has."""
    return THIRDS.get(mode, "major")


def tempi(strength: Float[np.ndarray, "n instants"]) -> Float[np.ndarray, " n"]:
    """Beats per minute: the period at whose multiples the onset strength is most like itself.

    Sum of the autocorrelation at 1 to 4 beats, times a broad preference for usual tempi (log-normal).
    """
    tempo = np.exp(np.arange(np.log(SLOWEST), np.log(FASTEST), 0.005))
    period = 60.0 * FLUX_RATE / tempo
    correlation = autocorrelation(strength)
    lags = np.arange(correlation.shape[1])
    preference = np.exp(-0.5 * (np.log2(tempo / USUAL_TEMPO) / TEMPO_SPREAD) ** 2)
    found = []
    for row in correlation:
        score = sum(np.interp(k * period, lags, row) / k**0.5 for k in (1, 2, 3, 4))
        found.append(tempo[np.argmax(np.maximum(score, 0.0) * preference)])
    return np.asarray(found)


def autocorrelation(strength: Float[np.ndarray, "n instants"]) -> Float[np.ndarray, "n instants"]:
    """Of the onset strength without its mean, 1 at lag 0, not shrinking with the lag."""
    x = strength - strength.mean(1, keepdims=True)
    count = x.shape[1]
    spectrum = np.fft.rfft(x, 2 * count, axis=1)
    raw = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :count] / np.maximum(count - np.arange(count), count // 4)
    return raw / np.maximum(raw[:, :1], 1e-12)


def tempo_right(heard: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Whether a tempo is the one asked for, half or double of it, within 8 %."""
    ratio = np.asarray(heard)[:, None] / (np.asarray(asked)[:, None] * np.array([0.5, 1.0, 2.0]))
    return np.any(np.abs(ratio - 1) <= TEMPO_TOLERANCE, axis=1)


def beats_in_bar(metre: str) -> int:
    """Beats of a bar: "3/4" 3, "6/8" 2, "4/4" 4; beats of 6/8, 9/8 and 12/8 are dotted.

    Raises:
      ValueError: it is no metre.
    """
    over, under = (int(number) for number in metre.split("/"))
    return over // 3 if under >= 8 and over % 3 == 0 and over > 3 else over


def beat_strength(strength: Float[np.ndarray, "n instants"], tempo: np.ndarray) -> Float[np.ndarray, " n"]:
    """Onset strength on the beats of a tempo over its mean, at the best phase: 1 where nothing beats at this tempo."""
    return np.asarray([_folded(row, 60.0 * FLUX_RATE / bpm).max() for row, bpm in zip(strength, tempo, strict=True)])


def threes(
    strength: Float[np.ndarray, "n instants"], chroma: Float[np.ndarray, "n F 12"], tempo: np.ndarray
) -> np.ndarray:
    """How much more alike music is three beats later than two or four, in differences of correlation.

    Above 0 it speaks for bars of three beats.
    """
    onset, pitch = autocorrelation(strength), _self_similarity(chroma)
    rows = []
    for heard, tones, bpm in zip(onset, pitch, tempo, strict=True):
        beat = 60.0 / bpm
        at = [
            np.interp(k * beat * FLUX_RATE, np.arange(len(heard)), heard)
            + np.interp(k * beat * FRAME_RATE, np.arange(len(tones)), tones)
            for k in (2, 3, 4, 6)
        ]
        rows.append(at[1] + at[3] - at[0] - at[2])
    return np.asarray(rows)


def melody_line(
    chroma: Float[np.ndarray, "F 12"], onsets: Float[np.ndarray, " count"]
) -> list[tuple[float, float, int]]:
    """The predominant notes of a clip: (onset and duration in seconds, pitch class).

    A note ends where another pitch class becomes the strongest for at least two frames, or at an onset. Silent frames
    belong to no note.
    """
    power = chroma.sum(1)
    strongest = np.where(power > 1e-2 * max(float(power.max(initial=0.0)), 1e-9), chroma.argmax(1), -1)
    for i in range(1, len(strongest) - 1):  # what lasts one frame is the crossing of two notes
        if strongest[i] != strongest[i - 1] and strongest[i] != strongest[i + 1]:
            strongest[i] = strongest[i - 1]
    starts = {0, *(np.flatnonzero(np.diff(strongest)) + 1).tolist()}
    for onset in onsets:
        frame = round(float(onset) * FRAME_RATE)
        if 0 < frame < len(strongest) and not starts & {frame - 1, frame, frame + 1}:
            starts.add(frame)
    edges = [*sorted(starts), len(strongest)]
    return [
        (first / FRAME_RATE, (last - first) / FRAME_RATE, int(strongest[first]))
        for first, last in zip(edges[:-1], edges[1:], strict=True)
        if strongest[first] >= 0
    ]


def in_best_scale(pitch_classes: Int[np.ndarray, " count"]) -> float:
    """Share of notes in the diatonic scale (of twelve) that holds most of them; not a number without notes."""
    if not len(pitch_classes):
        return float("nan")
    counts = np.bincount(pitch_classes, minlength=12)
    return max(float(counts[[(degree + tonic) % 12 for degree in SCALE]].sum()) for tonic in range(12)) / counts.sum()


def _folded(strength: np.ndarray, period: float) -> np.ndarray:
    """Mean onset strength at each phase of a period (in frames), over the mean of all; 20 ms of tolerance."""
    import scipy.ndimage

    near = scipy.ndimage.maximum_filter1d(strength, 5)
    phases = np.arange(0.0, period)
    beats = np.arange(int((len(strength) - period) / period) + 1) * period
    at = np.round(phases[:, None] + beats).astype(int)
    return near[np.minimum(at, len(near) - 1)].mean(1) / max(float(near.mean()), 1e-9)


def _self_similarity(chroma: np.ndarray) -> np.ndarray:
    """Correlation of a clip's chroma with itself some frames later, without its mean, [n, F]."""
    x = chroma / np.maximum(np.linalg.norm(chroma, axis=-1, keepdims=True), 1e-9)
    x = x - x.mean(1, keepdims=True)
    count = x.shape[1]
    raw = np.fft.irfft(np.abs(np.fft.rfft(x, 2 * count, axis=1)) ** 2, axis=1)[:, :count].sum(-1)
    raw /= np.maximum(count - np.arange(count), count // 4)
    return raw / np.maximum(raw[:, :1], 1e-12)
