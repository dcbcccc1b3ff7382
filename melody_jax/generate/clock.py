"""The time that each step of the work takes, and who wants to know."""

import time
from collections.abc import Callable

import jax

from melody_jax.generate.result import Cancelled, Progress, ProgressCallback
from melody_jax.shapes import Array


class Clock:
    """Seconds from lap to lap by step of the work, each lap ending when its array is there.

    Args:
      total: laps of the whole call.
      progress: told at every lap.
      cancel: asked at every lap whether to stop.

    Attributes:
      times: step -> seconds, since `begin`.
    """

    def __init__(self, total: int, progress: ProgressCallback | None = None, cancel: Callable[[], bool] | None = None):
        self.times: dict[str, float] = {}
        self.pieces = 0
        self._total, self._done = total, 0
        self._progress, self._cancel = progress, cancel
        self._last = time.perf_counter()

    def begin(self) -> None:
        """A new batch: its times start at 0."""
        self.times = {}
        self._last = time.perf_counter()

    def lap(self, name: str, array: Array | None = None) -> None:
        """A step of the work is done when `array` is there.

        Raises:
          Cancelled: the caller wants no more.
        """
        if array is not None:
            jax.block_until_ready(array)
        now = time.perf_counter()
        self.times[name] = self.times.get(name, 0.0) + now - self._last
        self._last = now
        self._done += 1
        if self._progress is not None:
            self._progress(Progress(self._done, self._total, name, self.pieces))
        if self._cancel is not None and self._cancel():
            raise Cancelled(())
