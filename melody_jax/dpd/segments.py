"""Half-overlapping segments (MeLoDy, section 4.2): L frames to S segments of K frames, and back by overlap-add.

The signal is padded with K/2 frames at the front and with at least as many at the end, so that every frame lies in
exactly two segments and S = ceil(L / (K/2)) + 1; L = 2500 and K = 64 make S = 80.
"""

import jax.numpy as jnp

from melody_jax.shapes import Array, Shaped


def count(frames: int, size: int) -> int:
    """S, the number of segments of `size` = K (even) frames that cover `frames` = L frames twice."""
    return -(-frames // (size // 2)) + 1


def pad(x: Shaped[Array, "B L H"], size: int) -> Shaped[Array, "B padded H"]:
    """Zeros at both ends, so that padded = (S + 1) K/2 and segment s starts at row s K/2."""
    half, frames = size // 2, x.shape[1]
    return jnp.pad(x, ((0, 0), (half, count(frames, size) * half - frames), (0, 0)))


def fold(padded: Shaped[Array, "B padded H"], size: int) -> Shaped[Array, "B S K H"]:
    """Segments of `size` = K frames, K/2 apart, of what `pad` has padded."""
    halves = padded.reshape(padded.shape[0], -1, size // 2, padded.shape[-1])
    return jnp.concatenate([halves[:, :-1], halves[:, 1:]], axis=2)


def cut(x: Shaped[Array, "B L H"], size: int) -> Shaped[Array, "B S K H"]:
    """Segments of `size` = K frames, K/2 apart; segment s starts at frame (s - 1) K/2. Padding is zeros."""
    return fold(pad(x, size), size)


def overlap_add(segments: Shaped[Array, "B S K H"], frames: int) -> Shaped[Array, "B L H"]:
    """Adds the two segments of every frame at weight 1/2: the inverse of `cut`, to the last bit."""
    batch, _, size, width = segments.shape
    half = size // 2
    folded = 0.5 * (segments[:, 1:, :half] + segments[:, :-1, half:])
    return folded.reshape(batch, -1, width)[:, :frames]
