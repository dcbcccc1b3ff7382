"""Which instrument family is heard: classifiers on spectra or on semantic codes."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax import dsp
from melody_jax.errors import UserError
from melody_jax.evaluate.estimate import Estimate, mean
from melody_jax.shapes import Array, Float, Int

Labels = Sequence[str] | np.ndarray
LARGE_SET = 24  # least number of clips whose own mean and deviation are used instead of those of the training clips


def timbre(audio: Float[np.ndarray, "n T"], sample_rate: int, batch: int = 32) -> Float[np.ndarray, "n features"]:
    """What a clip sounds like regardless of its level, 8 * 64 numbers.

    Of a 64-band log-mel spectrogram whose overall mean is removed: the mean over time (spectral envelope), the deviation
    over time, the mean rise from one frame to the next (attacks), the mean curvature over the bands (harmonics stand
    out, noise is smooth), and the autocorrelation over time at 20, 80, 240 and 500 ms (decays, vibrato).
    """
    rows = [_timbre(jnp.asarray(audio[i : i + batch]), sample_rate) for i in range(0, len(audio), batch)]
    return np.concatenate([np.asarray(row) for row in rows])


@functools.partial(jax.jit, static_argnums=1)
def _timbre(audio: Array, sample_rate: int) -> Array:
    mel = dsp.log_mel(audio, sample_rate, fft=2048, hop=sample_rate // 50, mels=64)
    # Only what lies within 52 dB (6 nats) of a clip's loudest band counts, so that no noise floor is listened to.
    mel = jnp.maximum(mel, jnp.max(mel, axis=(1, 2), keepdims=True) - 6.0)
    mel = mel - jnp.mean(mel, axis=(1, 2), keepdims=True)
    mean = jnp.mean(mel, 1)
    moving = mel - mean[:, None]
    variance = jnp.mean(jnp.square(moving), 1)
    rises = jnp.mean(jnp.maximum(jnp.diff(mel, axis=1), 0.0), 1)
    curvature = jnp.mean(jnp.abs(jnp.diff(mel, 2, axis=2)), 1)
    lagged = [jnp.mean(moving[:, lag:] * moving[:, :-lag], 1) / (variance + 1e-3) for lag in (1, 4, 12, 25)]
    return jnp.concatenate([mean, jnp.sqrt(variance), rises, curvature, *lagged], axis=-1)


def relative(features: Float[np.ndarray, "n features"]) -> Float[np.ndarray, "n features"]:
    """Features in units of their own set: mean 0 and deviation 1 over its clips.

    A colouring that all clips of a set share (that of a decoder, of a microphone) says nothing of a clip's family, but
    moves all clips of the set to one side of a classifier's boundaries. The set must hold many clips of all families.
    """
    return (features - features.mean(0)) / (features.std(0) + 1e-6)


def histograms(tokens: Int[np.ndarray, "n N"], codes: int) -> Float[np.ndarray, "n C"]:
    """Square roots of the shares of each code in each clip (Hellinger: no code dominates by being frequent)."""
    counts = np.zeros((len(tokens), codes), np.float32)
    np.add.at(counts, (np.arange(len(tokens))[:, None], tokens), 1.0)
    return np.sqrt(counts / tokens.shape[1])


class Classifier:
    """A classifier of standardised features (scikit-learn).

    "linear" is L2-regularised multinomial logistic regression; "kernel" a support vector machine with a Gaussian kernel.

    Raises:
      UserError: there are fewer than two labels.
    """

    def __init__(self, features: Float[np.ndarray, "n features"], labels: Labels, kind: str = "linear"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        if len(set(labels)) < 2:
            raise UserError("to tell instrument families apart takes training clips of two of them")
        model = {"linear": LogisticRegression(C=0.1, max_iter=1000), "kernel": SVC(C=1.0)}[kind]
        self._model = make_pipeline(StandardScaler(), model)
        self._model.fit(features, np.asarray(labels))

    def predict(self, features: Float[np.ndarray, "n features"]) -> list[str]:
        """The most probable label of each row."""
        return [str(label) for label in self._model.predict(features)]

    def accuracy(self, features: Float[np.ndarray, "n features"], labels: Labels) -> Estimate:
        """Mean over the classes of the share recognised (balanced accuracy), so that guessing gives 1 / classes."""
        found = np.asarray(self.predict(features)) == np.asarray(labels)
        _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return mean(found, 1 / counts[index])


class FamilyJudge:
    """Hears the instrument family that leads a clip, fitted on renders whose family is known.

    Args:
      audio: some hundreds of clips of all families.
      families: of each of them.
      sample_rate: Hz.
    """

    def __init__(self, audio: Float[np.ndarray, "n T"], families: Labels, sample_rate: int):
        features = timbre(audio, sample_rate)
        self._sample_rate = sample_rate
        self._own = features.mean(0), features.std(0) + 1e-6
        self._classifier = Classifier(relative(features), families, kind="kernel")

    def heard(self, audio: Float[np.ndarray, "n T"]) -> list[str]:
        """The most probable family of each clip, in the units of its set where that is large enough (`relative`)."""
        features = timbre(audio, self._sample_rate)
        many = len(features) >= LARGE_SET
        return self._classifier.predict(relative(features) if many else (features - self._own[0]) / self._own[1])

    def right(self, audio: Float[np.ndarray, "n T"], families: Labels) -> Estimate:
        """Share of the clips whose family is heard."""
        return mean(np.asarray(self.heard(audio)) == np.asarray(families))
