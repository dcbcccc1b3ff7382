"""What is wanted, and how far it has come. Imports no jax."""

import asyncio
import dataclasses
import threading
import time
from collections.abc import Hashable
from typing import Any

from melody_jax.codes.controls import Controls
from melody_jax.generate.settings import Settings
from melody_jax.serve.takes import Take, new_id

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
FINAL = (DONE, FAILED, CANCELLED)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A call of `Melody` for one piece, all of it checked.

    Attributes:
      verb: "generate", "continue", "inpaint" or "vary".
      settings, seed, prompt, negative, controls, keep_all: as in `Melody`'s calls.
      take: the music that is edited, or, for "generate", resembled.
      spans: of "inpaint".
      strength: of "vary".
      notes: what the user should know of it.
    """

    verb: str
    settings: Settings
    seed: int
    prompt: str | None = None
    negative: str | None = None
    controls: Controls | None = None
    keep_all: bool = False
    take: Take | None = None
    spans: tuple[tuple[float, float], ...] = ()
    strength: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> Hashable:
        """Those with the same one can be made in one call; None where it stands alone."""
        if self.verb != "generate" or self.take is not None:
            return None
        return self.settings, self.negative is None, self.keep_all


class Job:
    """One accepted request. The worker's thread writes it, the event loop reads it.

    Attributes:
      id: hard to guess.
      client: who asked.
      state: one of the five words above.
      takes: ids of what was made, the best first.
      error: one line, where there is one.
      stop: set when the client wants no more.
      heard: whether a client was told how it ended.
      changes: how often its listeners were told of it.
    """

    def __init__(self, client: str, wanted: Wanted, loop: asyncio.AbstractEventLoop | None = None):
        self.id, self.client, self.wanted = new_id(), client, wanted
        self.state, self.takes, self.error = WAITING, (), ""
        self.done, self.total, self.step = 0, 1, ""
        self.stop, self.heard = threading.Event(), False
        self.asked, self.begun, self.ended = time.monotonic(), 0.0, 0.0
        self.changes, self._loop, self._news = 0, loop, asyncio.Event()

    def tell(self, **changes: Any) -> None:
        """Changes attributes, and wakes those that wait for news. May be called from any thread."""
        for name, value in changes.items():
            setattr(self, name, value)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        bell, self._news = self._news, asyncio.Event()
        self.changes += 1
        bell.set()

    async def news(self, told: int, seconds: float) -> bool:
        """Waits on the event loop until `changes` is no longer `told`; False if it is for so long."""
        if self.changes == told:
            try:
                await asyncio.wait_for(self._news.wait(), seconds)
            except TimeoutError:
                return False
        return True

    def said(self) -> dict[str, Any]:
        """What a client is told."""
        self.heard = self.state in FINAL
        now = self.ended or time.monotonic()
        return {
            "id": self.id,
            "verb": self.wanted.verb,
            "state": self.state,
            "seed": self.wanted.seed,
            "done": self.done,
            "total": self.total,
            "step": self.step,
            "takes": list(self.takes),
            "error": self.error,
            "notes": list(self.wanted.notes),
            "waited": round((self.begun or now) - self.asked, 3),
            "worked": round(now - self.begun, 3) if self.begun else 0.0,
        }


class Jobs:
    """Jobs by id: all that have not ended, and `most` of the others. Those go first whose end a client has heard of, and of
    them the one that ended first: an end that nobody has asked for yet is still owed.
    """

    def __init__(self, most: int):
        self._most = most
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def add(self, job: Job) -> None:
        with self._lock:
            ended = [other for other in self._jobs.values() if other.state in FINAL]
            ended.sort(key=lambda other: (not other.heard, other.ended))
            for old in ended[: max(0, len(ended) - self._most)]:
                del self._jobs[old.id]
            self._jobs[job.id] = job

    def get(self, id: str) -> Job | None:
        return self._jobs.get(id)

    def open(self) -> list[Job]:
        """Those that have not ended."""
        with self._lock:
            return [job for job in self._jobs.values() if job.state not in FINAL]

    def drop(self, id: str) -> None:
        with self._lock:
            self._jobs.pop(id, None)
