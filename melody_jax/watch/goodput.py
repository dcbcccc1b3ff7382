"""Where the wall time of a run goes, over all of its processes.

At every moment between the start of a process and the end of its run the clock runs for exactly one of these:

  startup: until the first batch is asked for: imports, data, initialisation, restoring a checkpoint, executables.
  compilation: the first training step of the process, from its dispatch to its result.
  input: the loop waits for a batch. The device may still be busy with the step before, so this is an upper bound.
  steps: every other training step, with the reading and writing of its metrics.
  evaluation: held-out batches, the compilation of their program included.
  checkpointing: the loop waits for a checkpoint to be copied, for the one before it to be written, or for one to be read
    at a rollback. What is written in the background costs nothing here.
  profiling: a trace is started or written.
  finish: calibration and writing of the part.

Steps whose result did not survive were lost: those after the checkpoint from which the next process went on or to which
the run rolled back. They count as `redone` instead of `steps`, each with the mean time of its process's steps. Not counted
are the time in which no process ran, and what a killed process did after its last record.

Goodput is the time of `steps` over the time of everything.
"""

import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import jax

from melody_jax import files
from melody_jax.storage import Path

FILE = "goodput.jsonl"
KINDS: tuple[str, ...] = (
    "startup",
    "compilation",
    "input",
    "steps",
    "evaluation",
    "checkpointing",
    "profiling",
    "finish",
)
Record = dict[str, Any]


@dataclass(frozen=True)
class Interval:
    """What happened between two records of the log, the first step of the process aside.

    Attributes:
      steps: how many.
      seconds: that they took, waiting for their batches included.
      input: seconds of these in which the loop waited for a batch.
      goodput: of the whole run so far.
    """

    steps: int
    seconds: float
    input: float
    goodput: float


class Goodput:
    """The clock of one process of a run; host 0 keeps it in `goodput.jsonl`, which every `take` adds a line to.

    A line says all of its process so far:

      process: when it began its run (Unix time), which tells it from others.
      first, step, total: the step that it went on from (or rolled back to, where that was earlier), its last, the run's.
      taken, rollbacks: how many steps it took and how often it rolled back.
      seconds: kind -> seconds.

    Opening drops all lines but the last of each process, so the file stays small.

    Args:
      directory: the run's folder.
      step: that the process goes on from.
      total: the run's last step.
      began: Unix time from which start-up counts; None for now.
    """

    def __init__(self, directory: Path, step: int, total: int, began: float | None = None):
        now = time.time()
        began = now if began is None else began
        self._record: Record = {"process": now, "first": step, "step": step, "total": total, "taken": 0, "rollbacks": 0}
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._seconds["startup"] = max(0.0, now - began)
        self._kind, self._since = "startup", time.monotonic()
        self._start_interval()
        self._file, self._before = None, []
        if jax.process_index() == 0:
            self._before = read(directory)
            self._file = files.Appended(files.write_whole(directory / FILE, files.json_lines(self._before)))

    @contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """The time inside is of this kind."""
        outer = self._kind
        self._turn_to(kind)
        try:
            yield
        finally:
            self._turn_to(outer)

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """One training step. Until something else is said the time after it belongs to the steps."""
        first = not self._record["taken"]
        self._turn_to("compilation" if first else "steps")
        yield
        self._turn_to("steps")
        self._record["step"] = number
        self._record["taken"] += 1
        if first:
            self._start_interval()

    def go_back(self, step: int) -> None:
        """The run continues from an earlier step."""
        record = self._record
        record |= {"first": min(record["first"], step), "step": step, "rollbacks": record["rollbacks"] + 1}

    def take(self) -> Interval:
        """Writes a record; the interval since the last one. Raises OSError where the disk is full."""
        record = self._write()
        then, now = self._logged, self._position()
        self._start_interval()
        steps, seconds, waited = (after - before for after, before in zip(now, then, strict=True))
        return Interval(int(steps), seconds + waited, waited, share(spent([*self._before, record])))

    def keep(self) -> None:
        """The records until now will survive a kill, also in a bucket."""
        if self._file is not None:
            self._file.keep()

    def close(self) -> None:
        """Writes the last record."""
        if self._file is not None:
            with suppress(OSError):  # of a full disk, which has been reported
                self._write()
                self._file.close()

    def _turn_to(self, kind: str) -> None:
        now = time.monotonic()
        self._seconds[self._kind] += now - self._since
        self._kind, self._since = kind, now

    def _write(self) -> Record:
        self._turn_to(self._kind)
        record = self._record | {"seconds": {kind: round(seconds, 3) for kind, seconds in self._seconds.items()}}
        if self._file is not None:
            self._file.write(record)
        return record

    def _position(self) -> tuple[int, float, float]:
        return self._record["taken"], self._seconds["steps"], self._seconds["input"]

    def _start_interval(self) -> None:
        self._logged = self._position()


def process_began() -> float:
    """When this process was started (Unix time); now, where the system does not tell."""
    try:
        fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.time()
    return time.time() - max(0.0, age)


def read(directory: Path) -> list[Record]:
    """The last record of every process of a run, in order; [] if there is none. Lines cut short by a kill are left out."""
    processes: dict[float, Record] = {}
    for record in files.read_lines(directory / FILE):
        processes[record["process"]] = record
    return list(processes.values())


def spent(records: Sequence[Record]) -> dict[str, float]:
    """Kind -> seconds over all processes, `redone` among them."""
    total = dict.fromkeys((*KINDS, "redone"), 0.0)
    reached = float("inf")  # the lowest step that a later process went on from
    for record in reversed(records):
        for kind, seconds in record["seconds"].items():
            total[kind] += seconds
        kept = max(0, min(record["step"], reached) - record["first"])
        lost = record["taken"] - kept
        redone = record["seconds"]["steps"] * lost / max(1, record["taken"])
        total["steps"] -= redone
        total["redone"] += redone
        reached = min(reached, record["first"])
    return total


def share(seconds: Mapping[str, float]) -> float:
    """Goodput: the part of all time that was spent in steps that lasted."""
    return seconds["steps"] / max(sum(seconds.values()), 1e-9)
