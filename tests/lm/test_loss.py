"""Loss and n-gram baselines against NumPy and hand counts."""

import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.lm import baselines as ngrams
from melody_jax.lm.loss import token_losses, weighted_mean


def test_loss_equals_numpy():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(scale=3.0, size=(2, 5, 7)), rng.integers(0, 7, (2, 5))
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(probability, targets[..., None], -1)[..., 0])
    losses = token_losses(jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.int32))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    weights = np.array([[0.0, 0.5, 1.0, 1.0, 0.0]])
    mean = weighted_mean(losses, jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(mean, (expected * weights).sum() / (2 * weights.sum()), rtol=1e-5)


def test_extreme_logits_stay_finite():
    logits = jnp.array([[[1e4, 0.0, -1e4]]])
    np.testing.assert_allclose(token_losses(logits, jnp.array([[0]])), 0.0)
    np.testing.assert_allclose(token_losses(logits, jnp.array([[2]])), 2e4)


def test_unigram_by_hand():
    probabilities = ngrams.unigram_probabilities(np.array([[0, 0, 1], [0, 2, 0]]), codes=4, k=1.0)
    np.testing.assert_allclose(probabilities, np.array([5, 2, 2, 1]) / 10)


def test_bigram_by_hand():
    """Two clips 0 0 1 and 0 1 1: from the start always 0; after 0: 0 once, 1 twice; after 1: 1 once."""
    train = np.array([[0, 0, 1], [0, 1, 1]])
    counts = ngrams.bigram_counts(train, codes=2)
    np.testing.assert_array_equal(counts, [[1, 2], [0, 1], [2, 0]])
    unigram = np.array([0.5, 0.5])
    perplexity = ngrams.bigram_perplexity(counts, unigram, np.array([[0, 1, 0]]), weight=0.8)
    expected = [0.8 * 1 + 0.1, 0.8 * 2 / 3 + 0.1, 0.8 * 0 + 0.1]
    assert perplexity == pytest.approx(np.exp(-np.mean(np.log(expected))))


def test_unseen_history_falls_back_to_the_unigram():
    counts = ngrams.bigram_counts(np.array([[0, 0]]), codes=3)
    unigram = np.array([0.5, 0.3, 0.2])
    perplexity = ngrams.bigram_perplexity(counts, unigram, np.array([[0, 2, 1]]), weight=0.9)
    expected = [0.9 * 1 + 0.05, 0.1 * 0.2, 0.3]
    assert perplexity == pytest.approx(np.exp(-np.mean(np.log(expected))))


def test_baselines_find_the_structure():
    """Tokens that follow one another in a circle: a bigram model knows nearly all, a unigram model nothing."""
    rng = np.random.default_rng(1)
    clips = (rng.integers(0, 8, (40, 1)) + np.arange(30)[None]) % 8
    result = ngrams.baselines(clips[:30], clips[30:], codes=8)
    assert result.unigram == pytest.approx(8.0, rel=0.02)
    assert result.bigram < 1.2 and result.best == result.bigram
    noise = rng.integers(0, 8, (200, 30))
    flat = ngrams.baselines(noise[:150], noise[150:], codes=8)
    assert flat.unigram == pytest.approx(8.0, rel=0.02) and flat.bigram < 8.5
