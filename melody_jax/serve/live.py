"""A stream that somebody listens to: chunks are made in turns with other work, little ahead of what is heard."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np

from melody_jax.generate import Melody
from melody_jax.serve.takes import new_id

_AHEAD = 20.0
"""Seconds of music that may be made before they are heard."""


class Live:
    """Endless music for one listener.

    Args:
      client: who listens.
      call: arguments of `Melody.stream`.
      seconds: where it ends at the latest.
      loop: where its listener lives.

    Attributes:
      id: hard to guess.
    """

    def __init__(self, client: str, call: dict[str, Any], seconds: float, loop: asyncio.AbstractEventLoop):
        self.id, self.client = new_id(), client
        self._call, self._seconds, self._loop = call, seconds, loop
        self._stream: Any = None
        self._changes: list[dict[str, Any]] = []
        self._ready: asyncio.Future[Any] = loop.create_future()
        self.ended = False

    def change(self, changes: dict[str, Any]) -> None:
        """Changes the prompt, controls or settings from the next chunk on, as `Stream.change` does; they are checked before."""
        self._changes.append(changes)

    def end(self) -> None:
        """Ends the stream. May be called from any thread."""
        self.ended = True
        self._deliver(None)

    def play(self, melody: Melody) -> float:
        """Makes the next chunk, on the worker's thread; its length in seconds."""
        if self.ended:
            return 0.0
        try:
            if self._stream is None:
                self._stream = melody.stream(**self._call)
            while self._changes:
                self._stream.change(**self._changes.pop(0))
            chunk = next(self._stream)
        except Exception as error:
            self.ended = True
            self._deliver(error)
            raise
        self._deliver(chunk)
        return len(chunk) / melody.sample_rate

    async def chunks(self, rate: int, ask: Callable[[], None]) -> AsyncIterator[np.ndarray]:
        """The chunks, on the event loop; `ask` asks for a turn of the worker."""
        begun, given = time.monotonic(), 0
        ask()
        while not self.ended:
            chunk = await self._ready
            if chunk is None:
                return
            if isinstance(chunk, Exception):
                raise chunk
            chunk = chunk[: round(self._seconds * rate) - given]
            given += len(chunk)
            self._ready = self._loop.create_future()
            last = given >= round(self._seconds * rate)
            ahead = given / rate - (time.monotonic() - begun) - _AHEAD
            if ahead <= 0 and not last:
                ask()
            yield chunk
            if last:
                return
            if ahead > 0:
                await asyncio.sleep(ahead)
                ask()

    def _deliver(self, what: Any) -> None:
        def set_result() -> None:
            if not self._ready.done():
                self._ready.set_result(what)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(set_result)
