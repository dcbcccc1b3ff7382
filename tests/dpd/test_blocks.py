"""Merging and repeating of columns, and the two paths of a block."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.dpd import blocks, segments
from melody_jax.dpd.config import DPDConfig

TINY = DPDConfig(width=8, blocks=2, segment=6, heads=2, coarse_layers=1, hidden=12, recurrent_width=4)


def test_published_merged_widths():
    factors = [blocks.merge_factor(i, 8) for i in range(1, 9)]
    assert [blocks.merged_width(64, factor) for factor in factors] == [64, 32, 16, 8, 4, 8, 16, 32]


@pytest.mark.parametrize("columns", [1, 5, 6, 7, 22, 64])
@pytest.mark.parametrize("depth", range(1, 9))
def test_merge_and_repeat(depth, columns):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, columns, 2)), jnp.float32)
    for i in range(1, depth + 1):
        factor = blocks.merge_factor(i, depth)
        assert factor == 2 ** min(i - 1, depth - i + 1)
        merged = blocks.merge(x, factor)
        assert merged.shape == (2, 3, math.ceil(columns / factor), 2)
        for column in range(merged.shape[2]):  # the last one averages what is left
            expected = np.asarray(x)[:, :, column * factor : (column + 1) * factor].mean(2)
            np.testing.assert_allclose(merged[:, :, column], expected, atol=1e-6)
        repeated = blocks.repeat(merged, factor, columns)
        assert repeated.shape == x.shape
        for column in range(columns):
            np.testing.assert_array_equal(repeated[:, :, column], merged[:, :, column // factor])


def _attention(keep):
    module = blocks.CrossAttention(TINY, frames_per_token=2, factor=2)
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))
    tokens = jax.random.normal(jax.random.key(1), (2, 5, 8))
    variables = jax.jit(module.init)(jax.random.key(2), x, tokens, keep)
    apply = jax.jit(module.apply)
    return apply, variables, x, tokens


def test_dropped_rows_attend_to_their_own_column_only():
    keep = jnp.array([True, False])
    apply, variables, x, tokens = _attention(keep)
    before = apply(variables, x, tokens, keep)
    other_tokens = apply(variables, x, -tokens, keep)
    assert not np.allclose(before[0], other_tokens[0]) and np.array_equal(before[1], other_tokens[1])
    other_column = apply(variables, x.at[1, 2].add(1.0), tokens, keep)
    np.testing.assert_array_equal(before[1, :2], other_column[1, :2])
    other_segment = apply(variables, x.at[1, 2, 3].add(1.0), tokens, keep)
    assert not np.allclose(before[1, 2, 0], other_segment[1, 2, 0])


@pytest.mark.parametrize("nearness", [0.0, 16.0])
def test_nearness_starts_attention_at_the_tokens_that_sound(nearness):
    """How far the result moves with its own token, and with one 30 tokens away, before any training."""
    config = DPDConfig(width=128, segment=6, heads=2, nearness=nearness)
    module = blocks.CrossAttention(config, frames_per_token=1, factor=2)
    x, tokens = (
        jax.random.normal(jax.random.key(0), (1, 3, 30, 128)),
        jax.random.normal(jax.random.key(1), (1, 90, 128)),
    )
    variables = jax.jit(module.init)(jax.random.key(2), x, tokens, None)
    before = jax.jit(module.apply)(variables, x, tokens, None)
    # column 1 of segment 10 has its middle at frame (10 - 1) * 3 + 3 = 30, that of token 30
    moves = {}
    for token in (30, 60):
        after = jax.jit(module.apply)(variables, x, tokens.at[0, token].add(2.0), None)
        moves[token] = float(jnp.linalg.norm((after - before)[0, 1, 10]))
    assert (moves[30] > 4 * moves[60]) == bool(nearness)


def test_all_kept_equals_no_keep():
    apply, variables, x, tokens = _attention(None)
    everything = apply(variables, x, tokens, jnp.ones(2, bool))
    np.testing.assert_allclose(apply(variables, x, tokens, None), everything, atol=1e-6)


def test_cross_attention_sees_time():
    """Tokens in another order are another condition: positions are what lets a column find its tokens."""
    apply, variables, x, tokens = _attention(None)
    assert not np.allclose(apply(variables, x, tokens, None), apply(variables, x, tokens[:, ::-1], None))


def test_cross_attention_knows_only_distances():
    """Rotary positions in one unit: starting the clip two tokens (4 frames) later changes nothing.

    One segment is K/2 = 3 frames, so 4 segments are 12 frames, 6 tokens of 2 frames.
    """
    apply, variables, x, _ = _attention(None)
    tokens = jnp.zeros((2, 12, 8)).at[:, 0].set(jax.random.normal(jax.random.key(3), (2, 8)))
    longer = jnp.concatenate([jnp.zeros((2, 3, 4, 8)), x], axis=2)
    early = apply(variables, x, tokens, None)
    late = apply(variables, longer, jnp.roll(tokens, 6, axis=1), None)[:, :, 4:]
    np.testing.assert_allclose(early, late, atol=1e-5)


@pytest.mark.parametrize("film", ["frame", "segment"])
def test_film_is_a_scale_and_a_shift(film):
    """Against the equation MLP3(X (x) MLP1(M) + MLP2(M)), with each MLP evaluated alone."""
    config = DPDConfig(width=8, blocks=1, segment=4, heads=2, recurrent_width=4, film=film)
    frames, size = 6, 4
    rng = jax.random.key(0)
    x = jax.random.normal(rng, (1, 4, size, 8))
    condition = jax.random.normal(rng, (1, frames, 8) if film == "frame" else (1, 4, 1, 8))
    inside = segments.pad(jnp.ones((1, frames, 1)), size)
    given = (segments.pad(condition, size) if film == "frame" else condition, inside)
    variables = blocks.FiLM(config).init(rng, x, *given)
    y = blocks.FiLM(config).apply(variables, x, *given)

    def mlp(name, value):
        return blocks.MLP(8, 8).apply({"params": variables["params"][name]}, value)

    if film == "frame":  # segment 1 holds frames 0 .. 3
        scale, shift = (mlp(name, condition[:, :4]) for name in ("scale", "shift"))
    else:
        scale, shift = (mlp(name, condition[:, 1]) for name in ("scale", "shift"))
    np.testing.assert_allclose(y[:, 1], mlp("out", x[:, 1] * scale + shift), atol=1e-5)
    if film == "frame":  # the first half of segment 0 is padding, whose scale and shift are zero
        np.testing.assert_allclose(y[:, 0, : size // 2], mlp("out", jnp.zeros((1, size // 2, 8))), atol=1e-5)
