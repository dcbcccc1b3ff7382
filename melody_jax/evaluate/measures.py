"""What each stage must reach on held-out music, as functions of arrays: who made them does not matter here.

What cannot be measured on so few clips is a figure that says so (`Figure.unmeasured`).
"""

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.autoencoder.loss import log_mel_distance, low_pass
from melody_jax.evaluate.estimate import whole_mean, wilson
from melody_jax.evaluate.families import Classifier, Labels, histograms
from melody_jax.evaluate.figures import Figure
from melody_jax.generate.settings import BATCH_SIZE
from melody_jax.lm import baselines
from melody_jax.mulan.retrieval import retrieval
from melody_jax.shapes import Float, Int

ONE_CLIP = "it takes two held-out clips"


def reconstruction(
    audio: Float[np.ndarray, "n T"], decoded: Float[np.ndarray, "n T"], sample_rate: int, batch: int = BATCH_SIZE
) -> list[Figure]:
    """Autoencoder: log-mel distance beside that of a 2 kHz low-pass. Phases may be a decoder's own: samples do not count."""

    @jax.jit
    def measure(x, y):
        return log_mel_distance(x, y, sample_rate), log_mel_distance(x, low_pass(x, sample_rate), sample_rate)

    rows = [
        [np.asarray(value) for value in measure(jnp.asarray(audio[i : i + batch]), jnp.asarray(decoded[i : i + batch]))]
        for i in range(0, len(audio), batch)
    ]
    distance, muffled = (whole_mean(np.concatenate(column)) for column in zip(*rows, strict=True))
    beside, bound = f"2 kHz low-pass {muffled.value:.3f}", 0.5 * muffled.value
    return [Figure("autoencoder", "log-mel distance", distance.value, beside, bound, "<=", distance.interval)]


def text_to_music_retrieval(text: Float[np.ndarray, "n E"], music: Float[np.ndarray, "n E"]) -> list[Figure]:
    """MuLan: how often a caption's own clip is among the ten nearest of all clips, or the nearest twentieth of few."""
    if len(music) < 2:
        return [Figure.unmeasured("mulan", "text-to-music R@1", ONE_CLIP)]
    found = retrieval(text, music, k=max(1, min(10, len(music) // 20)))
    name, share = f"text-to-music R@{found.k} of {found.count} clips", found.text_to_music
    beside, bound = f"chance {found.chance:.3f}", above_chance(found.chance, 5)
    return [Figure("mulan", name, share, beside, bound, ">=", wilson(share, found.count))]


def codes(
    train: Int[np.ndarray, "m N"],
    train_families: Labels,
    held_out: Int[np.ndarray, "n N"],
    families: Labels,
    centres: int,
) -> list[Figure]:
    """Semantic codes: share of the centres in use, and the instrument family read from a clip's code histogram."""
    used = len(np.unique(held_out)) / centres
    enough = min(1.0, held_out.size / (20 * centres))  # few clips cannot use all
    in_use = Figure("codes", f"share of {centres} centres in use", used, "-", 0.8 * enough, ">=")
    name, chance = "family from code histogram", 1 / len(set(families))
    if chance == 1 or len(set(train_families)) == 1:
        return [in_use, Figure.unmeasured("codes", name, "it takes clips of two families, in training and held out")]
    found = Classifier(histograms(train, centres), train_families).accuracy(histograms(held_out, centres), families)
    beside, bound = f"chance {chance:.3f}", above_chance(chance, 3)
    return [in_use, Figure("codes", name, found.value, beside, bound, ">=", found.interval)]


def language_model(
    own: Float[np.ndarray, " n"],
    shuffled: Float[np.ndarray, " n"],
    train: Int[np.ndarray, "m N"],
    held_out: Int[np.ndarray, "n N"],
    centres: int,
) -> list[Figure]:
    """LM: held-out perplexity per semantic token beside n-gram models of the same tokens; and with others' prefixes.

    Args:
      own: nats per token of each clip.
      shuffled: the same, each clip with the prefix of another one.
      train, held_out: semantic tokens.
      centres: how many there are.
    """
    ngrams = baselines.baselines(train, held_out, centres)
    (right, right_interval), (wrong, wrong_interval) = _perplexity(own), _perplexity(shuffled)
    beside = f"unigram {ngrams.unigram:.1f}, bigram {ngrams.bigram:.1f}"
    perplexity = Figure("lm", "perplexity", right, beside, ngrams.best, "<=", right_interval)
    name = "perplexity, prefixes shuffled"
    if len(own) < 2:
        return [perplexity, Figure.unmeasured("lm", name, ONE_CLIP)]
    return [perplexity, Figure("lm", name, wrong, f"right prefixes {right:.2f}", right, ">=", wrong_interval)]


def diffusion(errors: Float[np.ndarray, "batches 3"]) -> list[Figure]:
    """DPD: velocity error over a grid of angles beside the per-channel Wiener predictor; and with others' tokens.

    Args:
      errors: of every batch of clips, with their own tokens, with another clip's, and of the predictor. A single batch is a
        single clip.
    """
    own, shuffled, wiener = errors.T
    error, bound = whole_mean(own), float(wiener.mean())
    ignored = "error, tokens shuffled / right"
    figures = [Figure("dpd", "velocity error", error.value, f"Wiener {bound:.4f}", bound, "<=", error.interval)]
    if len(own) < 2:
        return [*figures, Figure.unmeasured("dpd", ignored, ONE_CLIP)]
    ratio = whole_mean(shuffled / own, own)
    return [*figures, Figure("dpd", ignored, ratio.value, "1 if tokens were ignored", 1.03, ">=", ratio.interval)]


def above_chance(chance: float, times: int) -> float:
    """A bound some times as high as chance, or half-way from chance to 1 where that is lower."""
    return min(times * chance, (1 + chance) / 2)


def _perplexity(nats: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Of the mean of all clips, and its interval."""
    found = whole_mean(nats)
    low, high = np.exp([found.low, found.high])
    return float(np.exp(found.value)), (float(low), float(high))
