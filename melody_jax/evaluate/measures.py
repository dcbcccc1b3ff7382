"""What each stage must reach on held-out music, as functions of arrays: who made them does not matter here."""

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.autoencoder.loss import log_mel_distance, low_pass
from melody_jax.evaluate.families import Classifier, Labels, histograms
from melody_jax.evaluate.figures import Figure
from melody_jax.lm import baselines
from melody_jax.mulan.retrieval import retrieval
from melody_jax.shapes import Float, Int


def reconstruction(
    audio: Float[np.ndarray, "n T"], decoded: Float[np.ndarray, "n T"], sample_rate: int, batch: int = 16
) -> list[Figure]:
    """Autoencoder: log-mel distance beside that of a 2 kHz low-pass. Phases may be a decoder's own: samples do not count."""

    @jax.jit
    def measure(x, y):
        return log_mel_distance(x, y, sample_rate), log_mel_distance(x, low_pass(x, sample_rate), sample_rate)

    rows = [
        [np.asarray(value) for value in measure(jnp.asarray(audio[i : i + batch]), jnp.asarray(decoded[i : i + batch]))]
        for i in range(0, len(audio), batch)
    ]
    distance, muffled = (float(np.mean(np.concatenate(column))) for column in zip(*rows, strict=True))
    return [Figure("autoencoder", "log-mel distance", distance, f"2 kHz low-pass {muffled:.3f}", 0.5 * muffled, "<=")]


def text_to_music_retrieval(text: Float[np.ndarray, "n E"], music: Float[np.ndarray, "n E"]) -> list[Figure]:
    """MuLan: how often a caption's own clip is among the ten nearest of all clips, or the nearest twentieth of few."""
    found = retrieval(text, music, k=max(1, min(10, len(music) // 20)))
    name = f"text-to-music R@{found.k} of {found.count} clips"
    bound = min(5 * found.chance, (1 + found.chance) / 2)
    return [Figure("mulan", name, found.text_to_music, f"chance {found.chance:.3f}", bound, ">=")]


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
    classifier = Classifier(histograms(train, centres), train_families)
    accuracy = classifier.accuracy(histograms(held_out, centres), families)
    chance = 1 / len(set(families))
    return [
        Figure("codes", f"share of {centres} centres in use", used, "-", 0.8 * enough, ">="),
        Figure("codes", "family from code histogram", accuracy, f"chance {chance:.3f}", 3 * chance, ">="),
    ]


def language_model(
    perplexity: float,
    shuffled: float,
    train: Int[np.ndarray, "m N"],
    held_out: Int[np.ndarray, "n N"],
    centres: int,
) -> list[Figure]:
    """LM: held-out perplexity per semantic token beside n-gram models of the same tokens; and with others' prefixes."""
    ngrams = baselines.baselines(train, held_out, centres)
    beside = f"unigram {ngrams.unigram:.1f}, bigram {ngrams.bigram:.1f}"
    return [
        Figure("lm", "perplexity", perplexity, beside, ngrams.best, "<="),
        Figure("lm", "perplexity, prefixes shuffled", shuffled, f"right prefixes {perplexity:.2f}", perplexity, ">="),
    ]


def diffusion(error: float, shuffled: float, wiener: float) -> list[Figure]:
    """DPD: velocity error over a grid of angles beside the per-channel Wiener predictor; and with others' tokens."""
    return [
        Figure("dpd", "velocity error", error, f"Wiener {wiener:.4f}", wiener, "<="),
        Figure("dpd", "error, tokens shuffled / right", shuffled / error, "1 if tokens were ignored", 1.03, ">="),
    ]
