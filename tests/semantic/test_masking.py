"""Masking and distractors: statistics and membership."""

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.semantic.masking import sample_negatives, sample_pool, span_mask


def test_span_mask_has_whole_spans_in_the_wanted_number():
    mask = np.asarray(
        jax.jit(lambda key: span_mask(key, 64, 100, 0.5, 5))(jax.random.PRNGKey(0))
    )  # 10 spans of 5 each, overlaps merge
    assert mask.shape == (64, 100)
    assert np.all(mask.sum(1) <= 50) and np.all(mask.sum(1) >= 14)  # ten different starts cover at least 14 frames
    expected = 1 - (1 - 10 / 96) ** 5  # a frame in the middle is hit by one of five starts
    np.testing.assert_allclose(mask[:, 10:90].mean(), expected, atol=0.02)
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(int), axis=1)
    lengths = np.concatenate([np.flatnonzero(row < 0) - np.flatnonzero(row > 0) for row in edges])
    assert lengths.min() >= 5


def test_the_number_of_spans_is_rounded_at_random():
    draw = jax.jit(lambda key: jnp.sum(span_mask(key, 1, 20, 0.125, 1)))  # 2.5 spans of 1
    totals = [int(draw(jax.random.PRNGKey(i))) for i in range(40)]
    assert set(totals) == {2, 3} and 2.2 < np.mean(totals) < 2.8


def test_a_clip_shorter_than_a_span_is_masked_whole():
    assert bool(jnp.all(span_mask(jax.random.PRNGKey(0), 2, 3, 0.5, 10)))


def test_negatives_are_other_masked_frames_of_the_clip_uniformly():
    mask = jnp.array([[0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0]], bool)
    drawn = np.asarray(jax.jit(sample_negatives, static_argnums=2)(jax.random.PRNGKey(0), mask, 3000))
    for clip, frame in np.argwhere(np.asarray(mask)):
        others = sorted(set(np.flatnonzero(mask[clip])) - {frame})
        found, counts = np.unique(drawn[clip, frame], return_counts=True)
        assert found.tolist() == others
        np.testing.assert_allclose(counts / 3000, 1 / len(others), atol=0.05)


def test_the_pool_is_of_different_masked_frames():
    mask = jnp.arange(24).reshape(3, 8) % 3 == 0
    pool = np.asarray(sample_pool(jax.random.PRNGKey(0), mask, 6))
    assert len(set(pool.tolist())) == 6 and np.all(np.asarray(mask).reshape(-1)[pool])
