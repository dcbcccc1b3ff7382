"""A bounded queue in which clients take turns, however much each of them asks for. Imports no jax."""

import collections
import dataclasses
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

BATCHES = (1, 2, 4, 8, 16)
"""Numbers of pieces that are made at once: few, since each is a program of its own."""


class FullError(Exception):
    """There is no room.

    Attributes:
      own: whether it is the client's own share that is full.
    """

    def __init__(self, own: bool):
        super().__init__("this client has too many jobs waiting" if own else "too many jobs are waiting")
        self.own = own


class ClosedError(Exception):
    """The queue is closed to new items."""


@dataclasses.dataclass(frozen=True)
class _Entry(Generic[T]):
    item: T
    key: Hashable


class FairQueue(Generic[T]):
    """One waiting line per client. `take` goes from line to line, and fills a batch up with what can be done beside it.
    Beside these there is one line for what is urgent, which every second turn belongs to.

    Args:
      most: items that may wait.
      most_each: of them of one client.
      batch: largest number of items taken at once.
    """

    def __init__(self, most: int, most_each: int, batch: int):
        self._most, self._most_each, self._batch = most, most_each, batch
        self._lines: collections.OrderedDict[str, collections.deque[_Entry[T]]] = collections.OrderedDict()
        self._urgent: collections.deque[T] = collections.deque()
        self._last_urgent = False
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return self._count()

    def put(self, client: str, item: T, key: Hashable = None, urgent: bool = False) -> None:
        """Adds an item.

        Args:
          key: items of the same one may be taken together; None for none.
          urgent: whether somebody hears it already: it is let in where there is no room, and waits for one turn of others
            at most, and for what is urgent before it.

        Raises:
          FullError: there is no room.
          ClosedError: the queue is closed.
        """
        with self._changed:
            if self._closed:
                raise ClosedError("nothing is taken in any more")
            line = self._lines.get(client, ())
            if urgent:
                self._urgent.append(item)
            elif len(line) >= self._most_each or self._count() >= self._most:
                raise FullError(own=len(line) >= self._most_each)
            else:
                self._lines.setdefault(client, collections.deque()).append(_Entry(item, key))
            self._changed.notify()

    def take(self) -> list[T]:
        """The next items, one or several of the same key; waits for them. Empty when the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._urgent or self._closed)
            self._last_urgent = bool(self._urgent) and not (self._lines and self._last_urgent)
            if self._last_urgent:
                return [self._urgent.popleft()]
            if not self._lines:
                return []
            first = next(iter(self._lines.values()))[0]
            chosen = [first]
            if first.key is not None:
                chosen += [entry for entry in self._in_turns() if entry is not first and entry.key == first.key]
            size = max(size for size in BATCHES if size <= min(len(chosen), self._batch))
            for entry in chosen[:size]:
                self._drop(entry)
            return [entry.item for entry in chosen[:size]]

    def remove(self, wanted: Callable[[T], bool]) -> list[T]:
        """Removes items that are no longer wanted."""
        with self._changed:
            found = [entry for line in self._lines.values() for entry in line if wanted(entry.item)]
            for entry in found:
                self._drop(entry)
            urgent = [item for item in self._urgent if wanted(item)]
            self._urgent = collections.deque(item for item in self._urgent if not wanted(item))
            return [entry.item for entry in found] + urgent

    def close(self) -> list[T]:
        """Closes the queue to new items, and returns those that were waiting."""
        with self._changed:
            self._closed = True
            left = [*self._urgent, *(entry.item for entry in self._in_turns())]
            self._lines.clear()
            self._urgent.clear()
            self._changed.notify_all()
            return left

    def _count(self) -> int:
        return sum(map(len, self._lines.values())) + len(self._urgent)

    def _in_turns(self) -> list[_Entry[T]]:
        """All entries: the first of every client, then the second ones, ..."""
        lines = [list(line) for line in self._lines.values()]
        return [line[place] for place in range(max(map(len, lines), default=0)) for line in lines if place < len(line)]

    def _drop(self, entry: _Entry[T]) -> None:
        """Takes an entry out; its client has had a turn."""
        for client, line in list(self._lines.items()):
            if any(other is entry for other in line):
                kept = collections.deque(other for other in line if other is not entry)
                self._lines.move_to_end(client)
                if kept:
                    self._lines[client] = kept
                else:
                    del self._lines[client]
                return
