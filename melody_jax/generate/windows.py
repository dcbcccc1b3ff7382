"""How long music is cut into windows of the length that the models were trained on."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Windows:
    """Equal windows, each overlapping the one before.

    Attributes:
      size: of a window.
      starts: of each window; the first is 0.
    """

    size: int
    starts: tuple[int, ...]

    @property
    def total(self) -> int:
        """What the windows cover: at least what was asked for."""
        return self.starts[-1] + self.size


def cover(length: int, size: int, overlap: int) -> Windows:
    """Windows of at most `size` that cover `length`, each keeping `overlap` of the one before.

    A length of at most `size` is one window of just that length; otherwise all windows have the full size, so that one
    compiled program serves them all, and together they may reach beyond `length`.
    """
    if length <= size:
        return Windows(length, (0,))
    stride = size - overlap
    count = 1 - (size - length) // stride
    return Windows(size, tuple(i * stride for i in range(count)))
