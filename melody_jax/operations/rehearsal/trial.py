"""The training itself on a simulated pod: stopped by the death of a host, started again, and compared with one that was not."""

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from melody_jax import storage
from melody_jax.errors import FAILED, StoppedError
from melody_jax.files import read_lines, write_whole
from melody_jax.storage import Path
from melody_jax.watch import goodput

MELODY = (sys.executable, "-m", "melody_jax.cli.main")
FOLDER = ".rehearsal"
"""In the model folder; gone afterwards."""
BROKEN, WHOLE = f"{FOLDER}/broken", f"{FOLDER}/whole"
KILLED = 128 + 9
ENDLESS = 1_000_000
"""Steps of the start that is killed: it must not end before."""
TOLERANCE = 1e-4
"""Relative difference of losses that the order of sums over hosts may make."""

Curve = list[tuple[int, float]]
"""Steps and their losses, as they were logged."""
StartPod = Callable[[Sequence[str], TextIO, Callable[[], bool] | None], int]
"""(command, log, when to kill the last host) -> exit code of a pod of hosts that run the command."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """What the pod showed.

    Attributes:
      resumed: the step of the checkpoint from which the second start went on.
      steps: that both runs took.
      difference: the largest relative one between the losses of the two runs.
      checkpoint_seconds: what the loop waited for one checkpoint of the small model, the mean.
      step_seconds: here.
      restart_seconds: from the second start to its first step.
    """

    resumed: int
    steps: int
    difference: float
    checkpoint_seconds: float
    step_seconds: float
    restart_seconds: float

    @property
    def seamless(self) -> bool:
        """Whether the run that was interrupted has the curve of the one that was not."""
        return self.difference <= TOLERANCE


def rehearse(train: Sequence[str], model_dir: Path, every: int, start: StartPod, log: TextIO) -> Trial:
    """Trains until the first checkpoint, kills a host, goes on for `every` steps, and trains as far without interruption.

    Args:
      train: the words after `melody` that train the small model.
      every: steps between two checkpoints.

    Raises:
      StoppedError: a start ended otherwise than it should.
    """
    saved = model_dir / BROKEN / "checkpoints"
    command = _command(train, BROKEN, ENDLESS, every)
    _expect(start(command, log, lambda: bool(_complete(saved))), KILLED, "the start whose host is killed", log)
    resumed = max(_complete(saved), default=0)
    if not resumed:
        raise StoppedError(f"a host was killed from outside before the first checkpoint was whole ({log.name})", FAILED)
    steps = resumed + every
    _expect(start(_command(train, BROKEN, steps, every), log, None), 0, "the start that goes on", log)
    _expect(start(_command(train, WHOLE, steps, every), log, None), 0, "the start without interruption", log)
    broken, whole = (_curve(model_dir / name) for name in (BROKEN, WHOLE))
    record = goodput.read(model_dir / WHOLE)[-1]
    seconds, count = record["seconds"], len(_complete(model_dir / WHOLE / "checkpoints"))
    restart = goodput.read(model_dir / BROKEN)[-1]["seconds"]
    return Trial(
        resumed,
        steps,
        difference(broken, whole),
        seconds["checkpointing"] / max(1, count),
        seconds["steps"] / max(1, record["taken"] - 1),
        restart["startup"] + restart["compilation"],
    )


def difference(one: Curve, other: Curve) -> float:
    """The largest relative one of losses at a step; infinite where one curve misses a step, or has it twice."""
    if not one or [step for step, _ in one] != [step for step, _ in other]:
        return math.inf
    return max(abs(loss - same) / max(abs(same), 1e-12) for (_, loss), (_, same) in zip(one, other, strict=True))


@contextmanager
def folder(model_dir: Path) -> Iterator[Path]:
    """An empty folder for the rehearsal in the model folder, with nothing left of it afterwards."""
    made = model_dir / FOLDER
    storage.remove_folder(made)
    made.mkdir(parents=True, exist_ok=True)
    try:
        yield made
    finally:
        storage.remove_folder(made)


def write_rate(made: Path, size: int) -> float:
    """Bytes a second that one process of this machine writes into the folder, measured with a file of `size` bytes."""
    data = os.urandom(size)
    started = time.monotonic()
    write_whole(made / "bytes", data)
    return size / max(time.monotonic() - started, 1e-9)


def _command(train: Sequence[str], name: str, steps: int, every: int) -> list[str]:
    bindings = {"folder_name": repr(name), "total_steps": steps, "checkpoint_every": every, "log_every": 1}
    bindings |= {"eval_every": ENDLESS, "eval_steps": 1, "keep": 100, "sinks": "()"}
    return [*MELODY, *train, *(f"--gin.loop.Run.{field}={value}" for field, value in bindings.items())]


def _complete(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints that are whole."""
    found = checkpoints.glob("*/commit_success.txt") if checkpoints.exists() else ()
    return [int(path.parent.name) for path in found if path.parent.name.isdigit()]


def _curve(directory: Path) -> Curve:
    records = read_lines(directory / "metrics.jsonl")
    return [(record["step"], record["loss"]) for record in records if record["split"] == "train"]


def _expect(code: int, wanted: int, what: str, log: TextIO) -> None:
    if code != wanted:
        said = [line for line in _tail(log) if "error" in line.lower()]
        raise StoppedError(f"{what} ended with exit code {code}: {said[-1] if said else 'see'} ({log.name})", FAILED)


def _tail(log: TextIO) -> list[str]:
    log.flush()
    with open(log.name, errors="replace") as file:
        return [line.strip() for line in file.readlines()[-200:]]
