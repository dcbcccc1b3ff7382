"""A trial: its bindings, how far it is, its folder, who works on it; and where trials come from."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from melody_jax import lock
from melody_jax.files import read_lines
from melody_jax.watch.metrics import LINES

LOG = "log.txt"
ENDED = ("finished", "pruned", "failed")


@dataclasses.dataclass
class Trial:
    """One set of bindings and what became of it.

    Attributes:
      number: place in the sweep, from 0.
      bindings: name -> value as gin text.
      state: "waiting", "running", "stopped" (by a signal; another start of the sweep goes on with it), or, for good,
        "finished", "pruned", "failed".
      value: of the sweep's metric, so far; None before the first.
      step: training step of the newest value.
      seconds: wall-clock time of its processes.
      exit_code: of its last process; negative where a signal ended it.
      message: last line of its log, where it failed.
    """

    number: int
    bindings: dict[str, str]
    state: str = "waiting"
    value: float | None = None
    step: int = 0
    seconds: float = 0.0
    exit_code: int | None = None
    message: str = ""

    @property
    def key(self) -> str:
        """A hash of its bindings, which tells it from other trials and names its folder."""
        return hashlib.sha256(json.dumps(sorted(self.bindings.items())).encode()).hexdigest()[:8]

    @property
    def arguments(self) -> list[str]:
        """Its bindings, each "name=value"."""
        return [f"{name}={value}" for name, value in self.bindings.items()]


@runtime_checkable
class Trials(Protocol):
    """Where the trials of a sweep come from, and where what becomes of them is kept."""

    def take(self) -> tuple[Trial, lock.Held] | None:
        """A trial to be run now, with its lock: one that was interrupted, or a new one; None if there is none now."""
        ...

    def unfinished(self) -> bool:
        """Whether a trial of this folder is being run, here or by another process, or waits for it."""
        ...

    def report(self, trial: Trial, step: int, value: float) -> bool:
        """Takes note of a value of a running trial; whether the trial is to be pruned."""
        ...

    def keep(self, trial: Trial) -> None:
        """Saves the trial as it is now."""
        ...

    def all(self) -> Sequence[Trial]:
        """Every trial there is, also those of other processes."""
        ...


def folder(directory: Path, trial: Trial) -> Path:
    """The folder of a trial in a sweep's folder."""
    return directory / "trials" / trial.key


def claim(path: Path) -> lock.Held | None:
    """A lock on the trial's folder, which is made; None while somebody else has it.

    The trial's process inherits the lock, so that it outlives a killed sweep as long as the process does.
    """
    return lock.claim(path / "claim")


def values(path: Path, metric: str) -> list[tuple[int, float]]:
    """(step, value) of a metric "split/name" in the metrics.jsonl of a stage's folder, in the order written."""
    split, _, name = metric.partition("/")
    records = (record for record in read_lines(path / LINES) if record["split"] == split)
    return [(record["step"], float(record[name])) for record in records if name in record]


def last_line(path: Path) -> str:
    """The last line of a trial's log that is not empty; "" if there is none."""
    file = path / LOG
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
