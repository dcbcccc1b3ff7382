"""What no music should have: holes and clicks."""

import numpy as np

from melody_jax.shapes import Float, Int

BLOCK = 0.02  # seconds over which loudness is taken
SILENCE = -50.0  # dB below the loud blocks of a piece
GAP = 0.7  # seconds of silence that nobody asked for
ORDER = 6
NEAR, FAR = 6, 240  # samples: a jump may spread over NEAR; it is held against what is up to FAR away
AROUND = 8.0  # one render of the corpus in a hundred has a larger ratio somewhere
QUIETEST = 0.025  # of the piece's peak


def longest_gap(audio: Float[np.ndarray, "n T"], sample_rate: int) -> Float[np.ndarray, " n"]:
    """Seconds of the longest silence within each clip; what is silent throughout is one gap."""
    size = round(BLOCK * sample_rate)
    blocks = audio[:, : audio.shape[1] // size * size].reshape(len(audio), -1, size).astype(np.float64)
    level = 10 * np.log10(np.mean(blocks**2, -1) + 1e-12)
    loud = np.percentile(level, 95, axis=1, keepdims=True)
    silent = (level < loud + SILENCE) | (loud < -80)
    longest, run = np.zeros(len(audio)), np.zeros(len(audio))
    for column in silent.T:
        run = np.where(column, run + 1, 0)
        longest = np.maximum(longest, run)
    return longest * BLOCK


def clicks(audio: Float[np.ndarray, " T"]) -> Int[np.ndarray, " count"]:
    """Samples at which a piece jumps as it does nowhere near.

    Music has little at the highest frequencies and a jump much: what is compared is the difference of order ORDER. It is
    a click where it exceeds AROUND times the largest of those from NEAR to FAR samples before and after; jumps below
    2.5 % of the piece's peak are left alone. Attacks of drums and plucked strings last longer than NEAR.
    """
    import scipy.ndimage

    if len(audio) <= ORDER:
        return np.zeros(0, np.int64)
    edges = np.abs(np.diff(audio.astype(np.float64), ORDER))
    size = FAR - NEAR
    largest = scipy.ndimage.maximum_filter1d(edges, size, mode="constant")
    around, shift = np.zeros_like(edges), NEAR + size // 2 + 1
    around[shift:] = largest[:-shift]
    around[:-shift] = np.maximum(around[:-shift], largest[shift:])
    # a jump of height a makes an edge of 10 a (the middle binomial coefficient of order 5)
    quietest = QUIETEST * 10 / AROUND * max(float(np.abs(audio).max()), 1e-4)
    found = edges > AROUND * np.maximum(around, quietest)
    found &= edges == scipy.ndimage.maximum_filter1d(edges, 2 * NEAR + 1)
    places = np.flatnonzero(found) + ORDER // 2
    return places[np.diff(places, prepend=-FAR) > NEAR]  # a step makes two equal edges beside one another
