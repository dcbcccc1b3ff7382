"""One host's share of a work that several do. No jax here: worker processes import it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Share:
    """This host among those that do a work together and see the same folders; by default it is alone.

    Attributes:
      index: its number.
      count: how many there are.
      barrier: waits for all of them.
    """

    index: int = 0
    count: int = 1
    barrier: Callable[[], None] = lambda: None

    @property
    def first(self) -> bool:
        """Whether this host does what is done once."""
        return self.index == 0

    def of(self, work: Sequence[T]) -> Sequence[T]:
        """What this host does of it: every `count`th piece."""
        return work[self.index :: self.count]


ALONE = Share()
"""Of a work that no other host takes part in."""
