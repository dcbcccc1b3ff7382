"""How music is made piece by piece, in windows of the length that the models were trained on."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from melody_jax.shapes import Bool


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Tokens that are drawn in one go, all counted in moments.

    Attributes:
      begin: the first of them.
      earlier: how many before them the language model sees.
      length: how many are drawn.
      kept: how many of these are used.
    """

    begin: int
    earlier: int
    length: int
    kept: int


def runs(new: Bool[np.ndarray, " N"]) -> list[tuple[int, int]]:
    """[begin, end) of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], new.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def starts(new: Bool[np.ndarray, " N"], size: int, overlap: int) -> list[int]:
    """Where windows of `size` begin that make all that is new, in the order of making.

    A stretch that fits into a window stands in its middle, with what is before and after it in sight; a longer one is made
    from left to right, each window keeping `overlap` of what there is, or more: none reaches beyond the end. Music of at
    most `size` is one window.
    """
    left = new.copy()
    found = []
    while left.any():
        begin, end = runs(left)[0]
        if len(new) <= size:
            return [0]
        length = end - begin
        place = begin - ((size - length) // 2 if length <= size - overlap else overlap)
        found.append(min(max(0, place), len(new) - size))
        left[found[-1] : found[-1] + size] = False
    return found


def stretches(new: Bool[np.ndarray, " N"], size: int, overlap: int, second: int) -> Iterator[Stretch]:
    """All that is new, drawn by a model of `size` moments that goes on from at most `overlap` of them.

    Lengths are rounded to whole seconds, of `second` moments, so that few of them are compiled: each is a program of its own.
    """
    for begin, end in runs(new):
        at = begin
        while at < end:
            earlier = overlap if at >= overlap else at if at < second else at // second * second
            room, wanted = size - earlier, end - at
            length = room
            if at == begin:
                length = min(wanted if begin == 0 else -(-wanted // second) * second, room)
            yield Stretch(at, earlier, length, min(length, wanted))
            at += min(length, wanted)
