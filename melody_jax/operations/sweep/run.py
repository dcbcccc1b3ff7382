"""Runs the trials of a sweep, each in a process of its own, several at a time."""

import dataclasses
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from melody_jax.lock import Held
from melody_jax.operations.sweep.config import Sweep
from melody_jax.operations.sweep.trial import LOG, Trial, Trials, folder, last_line, values

_POLL = 0.2  # seconds between two looks at the running trials
_INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)


def run(
    sweep: Sweep,
    trials: Trials,
    directory: Path,
    command: Callable[[Trial, Path], list[str]],
    workers: int = 1,
    ended: Callable[[Trial], None] = lambda trial: None,
) -> int:
    """Runs trials until there is none left, or until SIGINT or SIGTERM, which it hands on and waits for.

    Args:
      directory: the sweep's folder.
      command: the command line of a trial that is to write to the given folder. It logs metrics to
        FOLDER/STAGE/metrics.jsonl, saves and ends on SIGTERM, and, started again, goes on where it stopped.
      workers: how many run at a time.
      ended: called with each trial whose process has ended.

    Returns:
      The signal that stopped the sweep; 0 if none did.
    """
    running: list[_Process] = []
    with _stop_signals() as received:
        try:
            while True:
                while not received and len(running) < workers and (taken := trials.take()) is not None:
                    running.append(_Process(sweep, trials, directory, command, *taken))
                if not running and (received or not trials.unfinished()):
                    return received[0] if received else 0
                time.sleep(_POLL)
                for process in list(running):
                    if received:
                        process.stop()
                    if process.has_ended():
                        running.remove(process)
                        ended(process.trial)
        except BaseException:
            for process in running:
                process.stop()
            raise


@dataclasses.dataclass
class _Process:
    """A running trial. Its process inherits the lock of its folder."""

    sweep: Sweep
    trials: Trials
    directory: Path
    command: Callable[[Trial, Path], list[str]]
    trial: Trial
    lock: Held

    def __post_init__(self) -> None:
        self.folder = folder(self.directory, self.trial)
        self._asked_to_stop = self._pruned = False
        self._reported = 0
        self._began, self._before = time.monotonic(), self.trial.seconds
        self.trial.state, self.trial.exit_code, self.trial.message = "running", None, ""
        self.trials.keep(self.trial)
        with (self.folder / LOG).open("ab") as log:
            self._popen = subprocess.Popen(
                self.command(self.trial, self.folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self.lock.fileno()],
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which then asks its trials to stop
            )

    def stop(self) -> None:
        """Asks the process, once, to save and end."""
        if not self._asked_to_stop:
            self._asked_to_stop = True
            self._popen.terminate()

    def has_ended(self) -> bool:
        """Whether the process has ended; takes note of its new metrics, and of how it ended."""
        code = self._popen.poll()
        self._take_metrics(ended=code is not None)
        if code is None:
            return False
        self._conclude(code)
        self.trials.keep(self.trial)
        self.lock.close()
        return True

    def _take_metrics(self, ended: bool) -> None:
        found = values(self.folder / self.sweep.stage, self.sweep.metric)
        for index in range(self._reported, len(found)):
            step, value = found[index]
            so_far = [value for _, value in found[: index + 1]]
            best = max(so_far) if self.sweep.maximize else min(so_far)
            self.trial.step, self.trial.value = step, best if self.sweep.take == "best" else value
            self.trial.seconds = self._seconds()
            if self.trials.report(self.trial, step, value) and not ended and not self._asked_to_stop:
                self._pruned = True
                self.stop()
        self._reported = len(found)

    def _conclude(self, code: int) -> None:
        trial = self.trial
        trial.exit_code, trial.seconds = code, self._seconds()
        if code == 0 and trial.value is not None:
            trial.state = "finished"
        elif code == 0:
            trial.state, trial.message = "failed", f"it logged no {self.sweep.metric}"
        elif code in _INTERRUPTED:
            trial.state = "pruned" if self._pruned else "stopped"
        else:
            trial.state, trial.message = "failed", last_line(self.folder)

    def _seconds(self) -> float:
        return round(self._before + time.monotonic() - self._began, 1)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are put into the list; the second one of a kind acts at once."""
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
