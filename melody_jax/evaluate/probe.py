"""What tokens tell by themselves: pitch class, family, key, tempo and spectrum, read by linear models of training clips."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse

from melody_jax.errors import UserError
from melody_jax.evaluate import adherence, spectra
from melody_jax.evaluate.estimate import Estimate, mean
from melody_jax.evaluate.families import Classifier, Labels
from melody_jax.evaluate.notes import NONE, Notes, agreement, lone_pitch_class
from melody_jax.shapes import Float, Int

FITTED_FRAMES = 60_000


def stacked(tokens: Int[np.ndarray, "n N *R"], levels: int | None = None) -> Int[np.ndarray, "n N R"]:
    """Tokens with an axis of levels, of which the first `levels` are kept (all if None)."""
    tokens = tokens[..., None] if tokens.ndim == 2 else tokens
    return tokens if levels is None else tokens[..., :levels]


class OneHot:
    """Sparse one-hot codes of frames: every level of the frame and of `context` frames on either side.

    Args:
      codes: centres of a level.
      context: neighbours on either side; 0 reads the frame alone.
    """

    def __init__(self, codes: int, context: int = 0):
        self.codes, self.context = codes, context

    def __call__(self, tokens: Int[np.ndarray, "n N R"]) -> scipy.sparse.csr_matrix:
        """[n * N, (2 context + 1) * R * codes]."""
        count, frames, _ = tokens.shape
        steps = range(-self.context, self.context + 1)
        columns = np.concatenate([tokens[:, np.clip(np.arange(frames) + s, 0, frames - 1)] for s in steps], axis=-1)
        columns = (columns + np.arange(columns.shape[-1]) * self.codes).reshape(count * frames, -1)
        rows = np.arange(0, columns.size + 1, columns.shape[1])
        ones = np.ones(columns.size, np.float32)
        return scipy.sparse.csr_matrix((ones, columns.ravel(), rows), (len(columns), columns.shape[1] * self.codes))


class PitchClassProbe:
    """Logistic regression from tokens to the pitch class of frames in which one note sounds.

    Args:
      tokens: of solos.
      notes: of each of them.
      codes: centres of a level.
      context: see OneHot.
    """

    def __init__(
        self, tokens: Int[np.ndarray, "n N *R"], notes: Sequence[Notes], codes: int, context: int = 0, seed: int = 0
    ):
        from sklearn.linear_model import LogisticRegression

        self._one_hot = OneHot(codes, context)
        tokens = stacked(tokens)
        labels = np.stack([lone_pitch_class(clip, tokens.shape[1]) for clip in notes]).ravel()
        chosen = np.random.default_rng(seed).permutation(np.flatnonzero(labels != NONE))[:FITTED_FRAMES]
        if len(np.unique(labels[chosen])) < 2:
            raise UserError("a probe of pitch needs solos with truth, in which several notes sound one at a time")
        self._model = LogisticRegression(C=1.0, max_iter=200, tol=1e-3)
        self._model.fit(self._one_hot(tokens)[chosen], labels[chosen])

    def heard(self, tokens: Int[np.ndarray, "n N *R"]) -> Int[np.ndarray, "n N"]:
        """The most probable pitch class of every frame."""
        return np.asarray(self._model.predict(self._one_hot(stacked(tokens)))).reshape(tokens.shape[:2])

    def right(self, tokens: Int[np.ndarray, "n N *R"], notes: Sequence[Notes]) -> Estimate:
        """Share of the frames with exactly one note in which its pitch class is read."""
        return agreement(self.heard(tokens), notes)


class FamilyProbe:
    """Logistic regression from a clip's shares of codes at every level to the family that leads it."""

    def __init__(self, tokens: Int[np.ndarray, "n N *R"], families: Labels, codes: int):
        self._codes = codes
        self._classifier = Classifier(self._shares(tokens), families)

    def heard(self, tokens: Int[np.ndarray, "n N *R"]) -> list[str]:
        """The most probable family of every clip."""
        return [str(family) for family in self._classifier.predict(self._shares(tokens))]

    def right(self, tokens: Int[np.ndarray, "n N *R"], families: Labels) -> Estimate:
        """Share of the clips whose family is read."""
        return mean(np.asarray(self.heard(tokens)) == np.asarray(families))

    def _shares(self, tokens: np.ndarray) -> np.ndarray:
        from melody_jax.evaluate.families import histograms

        levels = np.moveaxis(stacked(tokens), -1, 0)
        return np.concatenate([histograms(level, self._codes) for level in levels], axis=1)


class SpectrumProbe:
    """The log-frequency spectrum that tokens stand for: least squares from all levels to bands of the same frame.

    Args:
      tokens: of any clips.
      bands: `spectra.relative` of the same frames.
      codes: centres of a level.
    """

    def __init__(self, tokens: Int[np.ndarray, "n N *R"], bands: Float[np.ndarray, "n N bands"], codes: int):
        self._one_hot = OneHot(codes)
        inputs = self._one_hot(stacked(tokens))
        gram = (inputs.T @ inputs).toarray()
        gram += np.eye(len(gram), dtype=np.float32)
        self._mean = bands.mean((0, 1))
        self._weights = np.linalg.solve(gram, inputs.T @ (bands - self._mean).reshape(-1, bands.shape[-1]))

    def spectrum(self, tokens: Int[np.ndarray, "n N *R"]) -> Float[np.ndarray, "n N bands"]:
        """Relative log bands of every frame."""
        found = self._one_hot(stacked(tokens)) @ self._weights + self._mean
        return found.reshape(*tokens.shape[:2], -1)


class MusicProbe:
    """Family, key and tempo of clips, read from their tokens: what the language model wrote, before any sound is made of it.

    Key and tempo are those of the spectra that tokens stand for, judged as sound is (`adherence`).

    Args:
      tokens: training clips'.
      audio: of the same clips.
      families: that lead them; "" where none does.
      codes: centres of a level.
      sample_rate: Hz.
    """

    def __init__(
        self,
        tokens: Int[np.ndarray, "n N *R"],
        audio: Float[np.ndarray, "n T"],
        families: Labels,
        codes: int,
        sample_rate: int,
    ):
        led = [i for i, family in enumerate(families) if family]
        self._family = FamilyProbe(tokens[led], [families[i] for i in led], codes)
        level = spectra.bands(audio, sample_rate)
        self._level = SpectrumProbe(tokens, level, codes)
        self._spectrum = SpectrumProbe(tokens, spectra.relative(level), codes)

    def families(self, tokens: Int[np.ndarray, "n N *R"]) -> list[str]:
        """The most probable family of every clip."""
        return self._family.heard(tokens)

    def keys(self, tokens: Int[np.ndarray, "n N *R"]) -> list[tuple[int, str]]:
        """Tonic (pitch class) and mode of every clip."""
        return adherence.keys(spectra.chroma(self._spectrum.spectrum(tokens)))

    def tempi(self, tokens: Int[np.ndarray, "n N *R"]) -> Float[np.ndarray, " n"]:
        """Beats per minute of every clip, by the rise of its bands from token to token."""
        level = self._level.spectrum(tokens)
        rise = np.maximum(np.diff(level, axis=1, prepend=level[:, :1]), 0.0).mean(-1)
        finer = spectra.FLUX_RATE // spectra.FRAME_RATE
        at = np.arange(rise.shape[1] * finer) / finer
        return adherence.tempi(np.stack([np.interp(at, np.arange(len(row)), row) for row in rise]))
