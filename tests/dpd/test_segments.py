"""Segmentation and overlap-add are exact inverses, and every frame lies in exactly two segments."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.dpd import segments


def test_the_published_count():
    assert segments.count(2500, 64) == 80


@pytest.mark.parametrize("size", [2, 4, 6, 22, 64])
@pytest.mark.parametrize("frames", [1, 2, 3, 5, 21, 22, 64, 65, 127, 250])
def test_overlap_add_inverts_cut(frames, size):
    x = jnp.asarray(np.random.default_rng(frames).standard_normal((2, frames, 3)), jnp.float32)
    cut = segments.cut(x, size)
    assert cut.shape == (2, math.ceil(frames / (size / 2)) + 1, size, 3)
    np.testing.assert_array_equal(segments.overlap_add(cut, frames), x)


@pytest.mark.parametrize(("frames", "size"), [(13, 6), (12, 4), (1, 8)])
def test_segment_s_starts_half_a_segment_after_the_one_before(frames, size):
    """Frames numbered from 1, so that 0 marks padding: each number stands in two segments at the right place."""
    x = jnp.arange(1, frames + 1, dtype=jnp.float32)[None, :, None]
    cut = np.asarray(segments.cut(x, size))[0, ..., 0]
    for s, row in enumerate(cut):
        for k, value in enumerate(row):
            frame = (s - 1) * size // 2 + k
            assert value == (frame + 1 if 0 <= frame < frames else 0)
    assert all(np.sum(cut == number) == 2 for number in range(1, frames + 1))


def test_overlap_add_averages_what_the_two_segments_say():
    parts = jnp.ones((1, 4, 4, 1)) * jnp.arange(1.0, 5.0)[None, :, None, None]
    np.testing.assert_array_equal(segments.overlap_add(parts, 6)[0, :, 0], [1.5, 1.5, 2.5, 2.5, 3.5, 3.5])
