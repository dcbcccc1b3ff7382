"""What can end a run: signals, a number that is not finite, another process in its folder; and the part at its end."""

import itertools
import math
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from melody_jax import lock
from melody_jax.bundle.part import Part, save_part
from melody_jax.errors import StoppedError, UserError
from melody_jax.parallel.hosts import process_allgather
from melody_jax.parallel.init import to_host
from melody_jax.storage import Path
from melody_jax.train.stage import HostBatch, Stage
from melody_jax.train.state import TrainState
from melody_jax.watch.report import LOCK

PART = "part"
"""Where in the run's folder its part is."""


_BOUNDARIES = itertools.count(1)  # step boundaries of all runs of this process: the same number on all hosts


class StopSignals:
    """Context in which SIGINT and SIGTERM wait for a step boundary; the second one of a kind acts at once.

    With several hosts, SIGTERM (a preemption) goes to JAX's preemption service: it tells all hosts within seconds, and
    finds a step at which all of them stop.
    """

    def __init__(self) -> None:
        self._received = 0
        alone = jax.process_count() == 1
        self._numbers = (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,)

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.getsignal(number) for number in self._numbers}
        for number in self._previous:
            signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: object) -> None:
        self._received = number
        signal.signal(number, self._previous[signal.Signals(number)])

    def agreed(self, at_meeting: bool) -> int:
        """The signal that ends the run at this step boundary, 0 if none. Every host asks at every step, and all get the
        same answer.

        Several hosts ask each other about a Ctrl-C only `at_meeting`, at steps that all of them know, so that other
        steps need no communication.
        """
        if jax.process_count() == 1:
            return self._received
        if multihost_utils.reached_preemption_sync_point(next(_BOUNDARIES)):
            return int(signal.SIGTERM)
        if not at_meeting:
            return 0
        return int(np.max(process_allgather(np.int32(self._received))))


def check_finite(metrics: Mapping[str, float], step: int) -> None:
    """Raises StoppedError, naming step and metric, where a metric is NaN or infinite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise StoppedError(f"step {step}: metric {name} is {value}")


@contextmanager
def sole_user(directory: Path) -> Iterator[None]:
    """Holds a lock on a run's folder, so that two processes never write the same checkpoints.

    The lock ends with its process, however that ends. If the machine fails, another host can take the lock after two
    minutes.

    Raises:
      UserError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if jax.process_index() != 0:
        yield
        return
    held = lock.claim(directory / LOCK)
    if held is None:
        raise UserError(f"another process is training in {directory}")
    with held:
        yield


def write_part(
    stage: Stage, state: TrainState, batches: Iterator[HostBatch], directory: Path, training: Mapping[str, Any]
) -> Part | None:
    """Writes what the stage makes of its last state into `directory`/part; None on all hosts but the first."""
    params = to_host(stage.finish(state, batches), first_only=True)
    if jax.process_index() != 0:
        return None
    config, geometry, parents = stage.part()
    return save_part(directory / PART, stage.part_name or stage.name, params, config, geometry, parents, training)
