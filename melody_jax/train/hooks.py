"""What can end a run early: signals, a number that is not finite, another process in the same folder."""

import errno
import fcntl
import math
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from melody_jax.errors import FAILED, STOPPED, UserError

LOCK = "lock"
# Orbax and TensorStore have no exceptions of their own for a full disk or a refusal, but quote the system
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTSUP)
_FINAL = tuple(map(os.strerror, _REFUSED))
_REASON = 256  # bytes of a reason that other hosts are told


class StoppedError(Exception):
    """Training ended before its last step. The message is one clear sentence; `exit_code` is the process's.

    The exit code of a signal (130, 143) or FAILED tells a launcher to start the same command again, STOPPED not to.
    """

    def __init__(self, message: str, exit_code: int = STOPPED):
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(error: Exception) -> int:
    """Of a run that ends with the error: a StoppedError's own; STOPPED for a disk that is full or refuses to be written to,
    FAILED for all else."""
    if isinstance(error, StoppedError):
        return error.exit_code
    return STOPPED if any(text in str(error) for text in _FINAL) else FAILED


class StopSignals:
    """Context in which SIGINT and SIGTERM wait for a step boundary; the second one of a kind acts at once."""

    def __init__(self) -> None:
        self._received = 0

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
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
        """The signal that ends the run at this step boundary, 0 if none; every host gets the same answer.

        Several hosts only ask each other at a meeting (a step that all know), to keep other steps free of it.
        """
        if jax.process_count() == 1:
            return self._received
        if not at_meeting:
            return 0
        return int(np.max(multihost_utils.process_allgather(np.int32(self._received))))


@contextmanager
def together() -> Iterator[None]:
    """What fails inside on one host fails on all of them, so that none waits for one that has ended.

    Every host must come here. A process that is alone only gets its OSError, of a full disk, as a StoppedError.

    Raises:
      StoppedError: this host's failure, or that of the first one that failed.
    """
    if jax.process_count() == 1:
        try:
            yield
        except OSError as error:
            raise StoppedError(str(error), exit_code_of(error)) from error
        return
    code, reason, error = 0, "", None
    try:
        yield
    except Exception as caught:  # whatever it is, the others must hear of it
        code, reason, error = exit_code_of(caught), str(caught) or type(caught).__name__, caught
    own = np.frombuffer(bytes([code]) + reason.encode()[:_REASON].ljust(_REASON, b"\0"), np.uint8)
    for host, told in enumerate(multihost_utils.process_allgather(own)):
        if told[0]:
            text = told[1:].tobytes().rstrip(b"\0").decode(errors="ignore")
            raise StoppedError(reason or f"host {host}: {text}", code or int(told[0])) from error


def everywhere(done: bool) -> bool:
    """Whether all hosts say so; every host must ask."""
    return done if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.bool_(done))))


def check_finite(metrics: Mapping[str, float], step: int) -> None:
    """Raises StoppedError, naming step and metric, where a metric is NaN or infinite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise StoppedError(f"step {step}: metric {name} is {value}")


@contextmanager
def sole_user(directory: Path) -> Iterator[None]:
    """Holds a lock on a run's folder, so that two processes never write the same checkpoints.

    The lock ends with the process, however it ends.

    Raises:
      UserError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if jax.process_index() != 0:
        yield
        return
    with (directory / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process is training in {directory}") from None
        yield


def in_use(directory: Path) -> bool:
    """Whether a process of this machine holds the lock of a run's folder."""
    if not (directory / LOCK).exists():
        return False
    with (directory / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
