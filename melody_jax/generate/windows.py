"""How music is made piece by piece, in windows of the length that the models were trained on."""

import numpy as np

from melody_jax.shapes import Bool


def runs(new: Bool[np.ndarray, " N"]) -> list[tuple[int, int]]:
    """[begin, end) of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], new.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def starts(new: Bool[np.ndarray, " N"], size: int, overlap: int) -> list[int]:
    """Where windows of `size` begin that make all that is new, in the order of making.

    A stretch that fits into a window stands in its middle, with what is before and after it in sight; a longer one is made
    from left to right, each window keeping `overlap` of what there is. Windows may reach beyond the end. Music of at most
    `size` is one window.
    """
    left = new.copy()
    found = []
    while left.any():
        begin, end = runs(left)[0]
        if len(new) <= size:
            return [0]
        length = end - begin
        found.append(max(0, begin - ((size - length) // 2 if length <= size - overlap else overlap)))
        left[found[-1] : found[-1] + size] = False
    return found
