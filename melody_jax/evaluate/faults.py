"""What no music should have: holes and clicks."""

import numpy as np

from melody_jax.shapes import Float, Int

BLOCK = 0.02  # seconds over which loudness is taken
SILENCE = -50.0  # dB below the loud blocks of a piece
GAP = 0.7  # seconds of silence that nobody asked for
NEAR, FAR = 4, 120  # samples: a jump may spread over NEAR; it is held against those up to FAR away
AROUND, OWN = 5.0, 4.0  # how many times the largest jump around, and the 99.9 % point of the piece, a click exceeds


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


def clicks(audio: Float[np.ndarray, " T"]) -> Int[np.ndarray, " K"]:
    """Samples at which a piece jumps as it does nowhere near.

    A jump is the difference of neighbouring samples. It is a click where it is AROUND times as large as every jump in the
    5 ms before and after (those within NEAR samples belong to it), and OWN times the 99.9 % point of the piece's jumps.
    """
    import scipy.ndimage

    jumps = np.abs(np.diff(audio.astype(np.float64)))
    if not len(jumps):
        return np.zeros(0, np.int64)
    candidates = np.flatnonzero(jumps > max(OWN * np.percentile(jumps, 99.9), 1e-3))
    candidates = candidates[jumps[candidates] == scipy.ndimage.maximum_filter1d(jumps, 2 * NEAR + 1)[candidates]]
    found = []
    for at in candidates:
        around = np.concatenate([jumps[max(0, at - FAR) : max(0, at - NEAR)], jumps[at + NEAR + 1 : at + FAR + 1]])
        if len(around) and jumps[at] > AROUND * around.max():
            found.append(at)
    return np.asarray(found, np.int64)
