"""Finished music in bounded memory. Imports no jax."""

import collections
import dataclasses
import secrets
import threading
from typing import Any

import numpy as np

from melody_jax.samples import from_int16
from melody_jax.shapes import Float, Int


@dataclasses.dataclass(frozen=True)
class Take:
    """One piece, made here or uploaded. Anyone who knows its id may fetch it.

    Samples are those of a 16-bit file: what is edited further is what was downloaded, to the bit.

    Attributes:
      id: hard to guess.
      samples: [T] int16.
      sample_rate: Hz.
      verb: what made it: generate, continue, inpaint, vary, upload.
      title: sentence or file name.
      parent: id of the take that it was made of.
      made: what makes it again, as `generate.writer.describe` says it; {} of an upload.
      tags: of its sound file.
    """

    id: str
    samples: Int[np.ndarray, " T"]
    sample_rate: int
    verb: str
    title: str = ""
    parent: str | None = None
    made: dict[str, Any] = dataclasses.field(default_factory=dict)
    tags: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def audio(self) -> Float[np.ndarray, " T"]:
        """[T] float32, full scale 1."""
        return from_int16(self.samples)

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return self.samples.nbytes + 64 * len(self.made.get("semantic_codes", ())) + 16384

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate

    def said(self) -> dict[str, Any]:
        """In answers."""
        return {
            "id": self.id,
            "verb": self.verb,
            "title": self.title,
            "parent": self.parent,
            "seconds": round(self.seconds, 4),
            "sample_rate": self.sample_rate,
            "seed": self.made.get("seed"),
            "candidate": self.made.get("candidate"),
            "similarity": self.made.get("similarity"),
            "controls": self.made.get("call", {}).get("controls"),
        }


def new_id() -> str:
    return secrets.token_urlsafe(12)


class Takes:
    """Takes, up to a number of bytes in all; the one that was asked for least recently is dropped first."""

    def __init__(self, most_bytes: int):
        self._most, self._bytes = most_bytes, 0
        self._takes: collections.OrderedDict[str, Take] = collections.OrderedDict()
        self._lock = threading.Lock()

    def add(self, take: Take) -> None:
        with self._lock:
            self._takes[take.id] = take
            self._bytes += take.size
            while self._bytes > self._most and len(self._takes) > 1:
                self._bytes -= self._takes.popitem(last=False)[1].size

    def get(self, id: str) -> Take | None:
        with self._lock:
            if id in self._takes:
                self._takes.move_to_end(id)
            return self._takes.get(id)

    def drop(self, id: str) -> bool:
        """Whether it was there."""
        with self._lock:
            take = self._takes.pop(id, None)
            self._bytes -= take.size if take else 0
            return take is not None

    @property
    def bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self._takes)
