"""Keys: names, scales, the key stated by a score and the key that its notes suggest."""

import dataclasses

import numpy as np

# The usual spelling of each tonic; a key with a minor third prefers sharps where a major one has five flats or more.
NAMES = ("C", "D-flat", "D", "E-flat", "E", "F", "F-sharp", "G", "A-flat", "A", "B-flat", "B")
_MINOR_NAMES = ("C", "C-sharp", "D", "E-flat", "E", "F", "F-sharp", "G", "G-sharp", "A", "B-flat", "B")

SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
# Beside its scale a minor key uses the raised sixth and seventh degrees (melodic and harmonic minor).
_ALLOWED = SCALES | {"minor": (0, 2, 3, 5, 7, 8, 9, 10, 11)}

# Krumhansl and Kessler (1982): how well each pitch class fits a major and a minor key.
_PROFILES = {
    "major": np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88]),
    "minor": np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17]),
}


@dataclasses.dataclass(frozen=True)
class Key:
    """A tonic (pitch class 0-11, C = 0) and a mode of SCALES."""

    tonic: int
    mode: str

    @property
    def name(self) -> str:
        """Name of the tonic, e.g. "B-flat"."""
        return (_MINOR_NAMES if self.minor_third else NAMES)[self.tonic]

    @property
    def scale(self) -> tuple[int, ...]:
        """The seven pitch classes of the key, from the tonic upwards."""
        return tuple((self.tonic + step) % 12 for step in SCALES[self.mode])

    @property
    def minor_third(self) -> bool:
        """Whether the tonic triad is minor."""
        return self.mode in ("minor", "dorian")

    def transposed(self, semitones: int) -> "Key":
        """The same mode on another tonic."""
        return Key((self.tonic + semitones) % 12, self.mode)


def pitch_class_weights(notes) -> np.ndarray:
    """Sounding time of each pitch class [12] of notes given as rows (..., duration, pitch)."""
    notes = np.asarray(notes)
    return np.bincount(notes[:, -1].astype(int) % 12, weights=notes[:, -2].astype(float), minlength=12)


def key_fits(weights: np.ndarray) -> np.ndarray:
    """Correlation [2, 12] of pitch-class weights with the major (row 0) and minor (row 1) profile on each tonic."""
    weights = np.asarray(weights, float)
    if np.ptp(weights) == 0:
        return np.zeros((2, 12))
    profiles = np.stack([[np.roll(_PROFILES[mode], tonic) for tonic in range(12)] for mode in ("major", "minor")])
    profiles = profiles - profiles.mean(-1, keepdims=True)
    centred = weights - weights.mean()
    norms = np.linalg.norm(profiles, axis=-1) * np.linalg.norm(centred)
    return (profiles @ centred) / norms


def estimate_key(weights: np.ndarray) -> tuple[Key, float]:
    """The key whose profile fits best, and by how much it beats the best key of another tonic (Krumhansl 1990)."""
    fits = key_fits(weights)
    mode, tonic = np.unravel_index(np.argmax(fits), fits.shape)
    rivals = np.delete(fits, tonic, axis=1)
    return Key(int(tonic), ("major", "minor")[mode]), float(fits[mode, tonic] - rivals.max())


def settle_key(weights: np.ndarray, stated: Key | None, patience: float = 0.1) -> tuple[Key, float]:
    """The key of notes: the stated one unless the notes contradict it, else the estimated one.

    A stated key is believed when at least 92 % of the sounding time lies in its scale and when its profile fits no
    worse than `patience` (in correlation) below the best key: a second strain in the dominant is in the dominant.

    Returns:
        The key, and a confidence: 1 for a stated key that the notes confirm, else the margin of the estimate, or 0
        where too much lies outside the estimated scale.
    """
    if stated is not None:
        fits = key_fits(weights)
        fit = fits[int(stated.minor_third), stated.tonic]
        if share_inside(weights, stated) >= 0.92 and fit >= fits.max() - patience:
            return stated, 1.0
    key, margin = estimate_key(weights)
    return key, margin if share_inside(weights, key) >= 0.85 else 0.0


def share_inside(weights: np.ndarray, key: Key) -> float:
    """Share of the sounding time that lies in a key's scale."""
    return float(sum(weights[(key.tonic + step) % 12] for step in _ALLOWED[key.mode]) / max(weights.sum(), 1e-9))
