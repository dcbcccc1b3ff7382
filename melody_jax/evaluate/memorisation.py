"""Runs of tokens: how often one repeats the one before, and the longest run that another clip holds too."""

import numpy as np

from melody_jax.shapes import Int


def repeats(tokens: Int[np.ndarray, "n N *R"]) -> np.ndarray:
    """Share of each clip's tokens that equal the one before, [n] or, for several levels, [n, R]."""
    return np.mean(tokens[:, 1:] == tokens[:, :-1], axis=1)


def longest_shared(
    clips: Int[np.ndarray, "n N"], others: Int[np.ndarray, "m others"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """For each clip the length of the longest run of tokens that occurs in any of the others, and in which of them.

    Exact: suffixes of all clips are ranked by prefix doubling (Manber and Myers, 1990), so that a suffix shares most with
    a neighbour in the sorted order.
    """
    size = max(clips.shape[1], others.shape[1])
    text = np.concatenate([_ended(others, len(clips)), _ended(clips, 0)])  # each clip ends in a token of its own
    owner = np.concatenate(
        [np.repeat(np.arange(len(others)), others.shape[1] + 1)] + [np.full(clips.size + len(clips), -1)]
    )
    ranks = [np.unique(text, return_inverse=True)[1].astype(np.int64)]
    while 2 ** (len(ranks) - 1) < size and ranks[-1].max() < len(text) - 1:  # until all suffixes differ
        ranks.append(_doubled(ranks[-1], 2 ** (len(ranks) - 1)))
    order = np.argsort(ranks[-1], kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    theirs = np.where(owner[order] >= 0, np.arange(len(order)), -1)
    before = np.maximum.accumulate(theirs)
    after = np.where(theirs < 0, len(order), theirs)[::-1]
    after = np.minimum.accumulate(after)[::-1]
    starts = np.flatnonzero(owner < 0)
    best, whose = np.zeros(len(starts), np.int64), np.full(len(starts), -1)
    for neighbour in (before, after):
        place = neighbour[position[starts]]
        exists = (place >= 0) & (place < len(order))
        other = order[np.clip(place, 0, len(order) - 1)]
        length = np.where(exists, _common(ranks, starts, other), 0)
        better = length > best
        best, whose = np.where(better, length, best), np.where(better, owner[other], whose)
    best, whose = best.reshape(len(clips), -1), whose.reshape(len(clips), -1)
    at = best.argmax(1)
    rows = np.arange(len(clips))
    return best[rows, at], whose[rows, at]


def _ended(clips: np.ndarray, first: int) -> np.ndarray:
    """All clips in a row, each followed by a negative number that occurs once."""
    ends = -1 - first - np.arange(len(clips))
    return np.concatenate([clips.astype(np.int64), ends[:, None]], axis=1).ravel()


def _doubled(rank: np.ndarray, size: int) -> np.ndarray:
    """Ranks of all runs of 2 * size from those of runs of `size`; beyond the end nothing follows."""
    follows = np.zeros_like(rank)
    follows[:-size] = rank[size:] + 1
    return np.unique(rank * (rank.max() + 2) + follows, return_inverse=True)[1].astype(np.int64)


def _common(ranks: list[np.ndarray], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Length of what the suffixes at two lists of places have in common."""
    first, second = first.copy(), second.copy()
    length = np.zeros(len(first), np.int64)
    last = len(ranks[0]) - 1
    for level in range(len(ranks) - 1, -1, -1):
        rank = ranks[level]
        inside = (first <= last) & (second <= last)
        same = inside & (rank[np.minimum(first, last)] == rank[np.minimum(second, last)])
        step = np.where(same, 2**level, 0)
        first, second, length = first + step, second + step, length + step
    return length
