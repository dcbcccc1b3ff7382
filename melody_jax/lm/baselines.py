"""What a language model must beat: unigram and bigram models of the semantic tokens, in NumPy.

Both are fitted on the training tokens and measured on held-out ones; their perplexities are per token, over all N
tokens of a clip (the first token of a clip has the clip's start as its history), like the language model's.
"""

import dataclasses

import numpy as np

from melody_jax.shapes import Float, Int


@dataclasses.dataclass(frozen=True)
class Baselines:
    """Held-out perplexities.

    Attributes:
      unigram: of the add-k unigram model.
      bigram: of the interpolated bigram model.
      weight: of the bigram counts in the interpolation, as chosen on the training tokens' tail.
    """

    unigram: float
    bigram: float
    weight: float

    @property
    def best(self) -> float:
        """The perplexity to beat."""
        return min(self.unigram, self.bigram)


def unigram_probabilities(tokens: Int[np.ndarray, "B N"], codes: int, k: float = 1.0) -> Float[np.ndarray, " C"]:
    """(count + k) / (total + k C)."""
    counts = np.bincount(tokens.ravel(), minlength=codes).astype(np.float64)
    return (counts + k) / (counts.sum() + k * codes)


def bigram_counts(tokens: Int[np.ndarray, "B N"], codes: int) -> Float[np.ndarray, "histories C"]:
    """How often a token follows another one; row C is the start of a clip."""
    counts = np.zeros((codes + 1, codes))
    np.add.at(counts, (histories(tokens, codes).ravel(), tokens.ravel()), 1)
    return counts


def histories(tokens: Int[np.ndarray, "B N"], codes: int) -> Int[np.ndarray, "B N"]:
    """The token before each token; `codes` before the first one."""
    start = np.full((len(tokens), 1), codes, tokens.dtype)
    return np.concatenate([start, tokens[:, :-1]], axis=1)


def bigram_perplexity(
    counts: Float[np.ndarray, "histories C"],
    unigram: Float[np.ndarray, " C"],
    tokens: Int[np.ndarray, "B N"],
    weight: float,
) -> float:
    """exp of the mean of -log(w c(h, t) / c(h) + (1 - w) p(t)) (Jelinek and Mercer, 1980).

    A history that was never seen has p(t) alone.
    """
    totals = counts.sum(axis=1, keepdims=True)
    conditional = np.divide(counts, totals, out=np.tile(unigram, (len(counts), 1)), where=totals > 0)
    history = histories(tokens, len(unigram))
    probability = weight * conditional[history, tokens] + (1 - weight) * unigram[tokens]
    return float(np.exp(-np.log(probability).mean()))


def baselines(train: Int[np.ndarray, "n N"], held_out: Int[np.ndarray, "B N"], codes: int) -> Baselines:
    """Fits both models on `train` and measures them on `held_out`.

    The interpolation weight is the best of a grid for the last tenth of the training clips under counts of the others;
    the counts are then taken from all training clips.
    """
    cut = max(1, len(train) - max(1, len(train) // 10))
    fit, tune = train[:cut], train[cut:] if cut < len(train) else train
    counts, prior = bigram_counts(fit, codes), unigram_probabilities(fit, codes)
    grid = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
    weight = min(grid, key=lambda w: bigram_perplexity(counts, prior, tune, w))
    prior = unigram_probabilities(train, codes)
    return Baselines(
        unigram=float(np.exp(-np.log(prior[held_out]).mean())),
        bigram=bigram_perplexity(bigram_counts(train, codes), prior, held_out, weight),
        weight=weight,
    )
