"""Which notes are heard: pitch classes of solos, chroma of several parts, onsets. Truth beside them comes from the score.

Notes of a clip are rows (onset in seconds, duration in seconds, MIDI pitch, number of the part).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from melody_jax.errors import UserError
from melody_jax.evaluate import spectra
from melody_jax.evaluate.estimate import Estimate, mean
from melody_jax.evaluate.spectra import FLUX_RATE, FRAME_RATE
from melody_jax.shapes import Float, Int

Notes = Sequence[tuple[float, float, int, int]] | np.ndarray
NONE = -1  # label of a frame in which not exactly one note sounds
ONSET_TOLERANCE = 0.05  # seconds, as in MIREX
FITTED_FRAMES = 20_000
EPOCHS = 8
SEEN_FRAMES = 60_000  # what small sets are seen again for
PEAK_MARGIN = 0.15  # of the 95 % point of a clip's spectral flux
CHORD = 0.03  # onsets nearer than this are heard as one


def sounding(notes: Notes, frames: int) -> Int[np.ndarray, "F 12"]:
    """How many notes of each pitch class sound in the middle of each frame."""
    counts = np.zeros((frames, 12), np.int32)
    for onset, duration, pitch, _ in notes:
        first, last = (int(np.ceil(t * FRAME_RATE - 0.5)) for t in (onset, onset + duration))
        counts[max(first, 0) : max(last, 0), int(pitch) % 12] += 1
    return counts


def lone_pitch_class(notes: Notes, frames: int) -> Int[np.ndarray, " F"]:
    """Pitch class (0 is C) of frames in the middle of which exactly one note sounds, NONE elsewhere."""
    counts = sounding(notes, frames)
    return np.where(counts.sum(1) == 1, counts.argmax(1), NONE)


class PitchClassJudge:
    """Hears the pitch class of each frame of a melody, fitted on renders whose notes are known.

    Args:
      audio: solos of several instruments, some dozens at least.
      notes: of each of them.
      sample_rate: Hz.
    """

    def __init__(self, audio: Float[np.ndarray, "n T"], notes: Sequence[Notes], sample_rate: int, seed: int = 0):
        from sklearn.neural_network import MLPClassifier

        self._sample_rate = sample_rate
        features = _context(audio, sample_rate)
        labels = np.stack([lone_pitch_class(clip, features.shape[1]) for clip in notes])
        chosen = np.random.default_rng(seed).permutation(np.flatnonzero(labels.ravel() != NONE))[:FITTED_FRAMES]
        frames, classes = features.reshape(-1, features.shape[-1])[chosen], labels.ravel()[chosen]
        if len(np.unique(classes)) < 2:
            raise UserError("a judge of pitch needs solos with truth, in which several notes sound one at a time")
        options: dict[str, Any] = {"batch_size": min(250, len(chosen)), "learning_rate_init": 3e-3}
        self._model = MLPClassifier((64,), random_state=seed, **options)
        for epoch in range(max(EPOCHS, SEEN_FRAMES // len(chosen))):
            self._model.partial_fit(*_transposed(frames, classes, seed + epoch), classes=np.arange(12))

    def heard(self, audio: Float[np.ndarray, "n T"]) -> Int[np.ndarray, "n F"]:
        """The most probable pitch class of every frame."""
        features = _context(audio, self._sample_rate)
        found = self._model.predict(features.reshape(-1, features.shape[-1]))
        return np.asarray(found).reshape(features.shape[:2])

    def right(self, audio: Float[np.ndarray, "n T"], notes: Sequence[Notes]) -> Estimate:
        """Share of the frames with exactly one note in which its pitch class is heard."""
        return agreement(self.heard(audio), notes)


def agreement(heard: Int[np.ndarray, "n F"], notes: Sequence[Notes]) -> Estimate:
    """Share of the frames with exactly one note in which `heard` is its pitch class."""
    labels = np.stack([lone_pitch_class(clip, heard.shape[1]) for clip in notes])
    lone = labels != NONE
    shares = np.sum((heard == labels) & lone, 1) / np.maximum(lone.sum(1), 1)
    return mean(shares, lone.sum(1))


def onsets(audio: Float[np.ndarray, "n T"], sample_rate: int) -> list[Float[np.ndarray, " count"]]:
    """Times of onsets of each clip, seconds: peaks of the spectral flux that stand out of their surroundings."""
    return [onset_peaks(strength) for strength in spectra.onset_strength(audio, sample_rate)]


def onset_f(audio: Float[np.ndarray, "n T"], notes: Sequence[Notes], sample_rate: int) -> Estimate:
    """F-measure of heard onsets against the score's (mir_eval, 50 ms), the mean over clips."""
    import mir_eval

    seconds = audio.shape[1] / sample_rate
    scores = []
    for clip, times in zip(notes, onsets(audio, sample_rate), strict=True):
        wanted = score_onsets(clip, seconds)
        if len(wanted) and len(times):
            scores.append(mir_eval.onset.f_measure(wanted, times, window=ONSET_TOLERANCE)[0])
        else:
            scores.append(0.0 if len(wanted) else np.nan)
    return mean(np.asarray(scores))


def score_onsets(notes: Notes, seconds: float) -> Float[np.ndarray, " count"]:
    """Times at which notes of the score start, those of a chord once."""
    times = np.sort(np.asarray([note[0] for note in notes], np.float64))
    times = times[times < seconds]
    kept: list[float] = []
    for time in times:
        if not kept or time - kept[-1] > CHORD:
            kept.append(float(time))
    return np.asarray(kept)


def chroma_cosine(reference: Float[np.ndarray, "n F 12"], other: Float[np.ndarray, "n frames 12"]) -> Estimate:
    """Mean cosine of two chromas, frame by frame where the reference is not silent."""
    frames = min(reference.shape[1], other.shape[1])  # what is made may be a fraction of a frame shorter
    reference, other = reference[:, :frames], other[:, :frames]
    dot = np.sum(reference * other, -1)
    norms = np.linalg.norm(reference, axis=-1), np.linalg.norm(other, axis=-1)
    loud = norms[0] > 1e-2 * norms[0].max(axis=1, keepdims=True)
    cosine = dot / np.maximum(norms[0] * norms[1], 1e-9)
    return mean(np.sum(cosine * loud, 1) / np.maximum(loud.sum(1), 1), loud.sum(1))


def _context(audio: np.ndarray, sample_rate: int) -> Float[np.ndarray, "n F features"]:
    """Relative bands of each frame and its two neighbours, in [-1, 0]."""
    now = spectra.relative(spectra.bands(audio, sample_rate)) / -spectra.FLOOR
    padded = np.pad(now, ((0, 0), (1, 1), (0, 0)), mode="edge")
    return np.concatenate([padded[:, :-2], now, padded[:, 2:]], axis=-1)


def _transposed(features: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The frames, each moved by some semitones up or down: timbres are learnt, not the keys of the corpus."""
    steps = np.random.default_rng(seed).integers(-6, 7, len(labels))
    stacked = features.reshape(len(labels), 3, spectra.BANDS)
    moved = np.full_like(stacked, -1.0)
    for step in range(-6, 7):
        rows, shift = steps == step, spectra.BANDS_PER_SEMITONE * step
        kept = slice(max(shift, 0), spectra.BANDS + min(shift, 0))
        taken = slice(max(-shift, 0), spectra.BANDS + min(-shift, 0))
        moved[rows, :, kept] = stacked[rows, :, taken]
    return moved.reshape(features.shape), (labels + steps) % 12


def onset_peaks(strength: Float[np.ndarray, " F"]) -> Float[np.ndarray, " count"]:
    """Frames that are the largest within 30 ms and stand above the mean of the 150 ms around by a margin."""
    import scipy.ndimage

    highest = scipy.ndimage.maximum_filter1d(strength, 7)
    around = scipy.ndimage.uniform_filter1d(strength, 31)
    margin = PEAK_MARGIN * np.percentile(strength, 95)
    frames = np.flatnonzero((strength == highest) & (strength > around + margin) & (strength > 1e-3))
    return frames / FLUX_RATE
