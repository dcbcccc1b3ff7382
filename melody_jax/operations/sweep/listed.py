"""Trials that are known beforehand, those of grid and random sweeps; each keeps its own record."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from melody_jax.files import write_whole
from melody_jax.lock import Held
from melody_jax.operations.sweep.trial import Trial, claim, folder

RECORD = "trial.json"


class ListedTrials:
    """The trials of a list, each in a folder of its own with a record, trial.json."""

    def __init__(self, directory: Path, proposals: Sequence[dict[str, str]]):
        self._directory = directory
        self._trials = [Trial(number, bindings) for number, bindings in enumerate(proposals)]
        for trial in self._trials:
            self._refresh(trial)
            if trial.state == "stopped":
                trial.state = "waiting"

    def take(self) -> tuple[Trial, Held] | None:
        """The first trial that has not ended and that nobody works on."""
        for trial in self._trials:
            if trial.state not in ("waiting", "running"):
                continue
            lock = claim(folder(self._directory, trial))
            if lock is None:
                continue
            self._refresh(trial)  # the process that had the lock before may have ended it
            if trial.state in ("waiting", "running", "stopped"):
                return trial, lock
            lock.close()
        return None

    def unfinished(self) -> bool:
        """Whether a trial has not ended. One that a signal stopped here waits for the next start."""
        return any(trial.state in ("waiting", "running") for trial in self._trials)

    def report(self, trial: Trial, step: int, value: float) -> bool:
        """Nothing is pruned."""
        self.keep(trial)
        return False

    def keep(self, trial: Trial) -> None:
        """Writes the trial's record."""
        record = json.dumps(dataclasses.asdict(trial), indent=1) + "\n"
        write_whole(folder(self._directory, trial) / RECORD, record)

    def all(self) -> Sequence[Trial]:
        """The whole list, in its order."""
        return self._trials

    def _refresh(self, trial: Trial) -> None:
        """What the record says of the trial; its number is this list's."""
        file = folder(self._directory, trial) / RECORD
        if file.exists():
            for name, value in (json.loads(file.read_text()) | {"number": trial.number}).items():
                setattr(trial, name, value)
