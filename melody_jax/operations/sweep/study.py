"""Trials that Optuna proposes, one after another, from what the earlier ones reached."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from melody_jax.errors import UserError, of_extra
from melody_jax.lock import Held
from melody_jax.operations.sweep.config import Sweep
from melody_jax.operations.sweep.ranges import Integer, LogUniform, Uniform, size, text
from melody_jax.operations.sweep.trial import ENDED, Trial, claim, folder

_SKIPPED = "skipped"
_TRIAL = "trial"
_DRAWS = 100  # duplicates in a row after which the space counts as exhausted
_OPENINGS = 4


class StudyTrials:
    """The trials of an Optuna study, which processes on many hosts may share; the study keeps their records.

    A trial belongs to the folder in which it was begun: only a sweep with that folder goes on with it.

    Raises:
      UserError: Optuna is not installed, or its storage cannot be used.
    """

    def __init__(self, directory: Path, name: str, sweep: Sweep):
        with of_extra("sweep", "this sweep"):
            import optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._sweep, self._directory = optuna, sweep, directory
        self._handles: dict[int, Any] = {}
        self._stopped: set[int] = set()
        self._exhausted = False
        directory.mkdir(parents=True, exist_ok=True)
        with _explained("its storage cannot be used"):
            self._study = self._open(name, sweep.storage or f"sqlite:///{directory.resolve() / 'study.db'}")

    def take(self) -> tuple[Trial, Held] | None:
        """A trial that was interrupted here, else a new one while there are fewer than the sweep wants."""
        for number in self._begun_here():
            lock = claim(folder(self._directory, self._trials()[number]))
            if lock is None:
                continue
            trial = self._trials()[number]
            if trial.state not in ENDED:
                return trial, lock
            lock.close()
        return None if self._exhausted else self._ask()

    def unfinished(self) -> bool:
        """Whether a trial of this folder has not ended. One that a signal stopped here waits for the next start."""
        return bool(self._begun_here())

    def report(self, trial: Trial, step: int, value: float) -> bool:
        """Reports the value to Optuna; returns whether its pruner gives the trial up."""
        asked = self._asked(trial.number)
        if step not in self._frozen(trial.number).intermediate_values:
            asked.report(value, step)
        return bool(asked.should_prune())

    def keep(self, trial: Trial) -> None:
        """Writes the trial's record into the study, and tells it the result of a trial that has ended."""
        self._asked(trial.number).set_user_attr(_TRIAL, dataclasses.asdict(trial))
        if trial.state == "stopped":
            self._stopped.add(trial.number)
        if trial.state in ENDED:
            states = self._optuna.trial.TrialState
            state = {"finished": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[trial.state]
            self._study.tell(trial.number, trial.value if trial.state == "finished" else None, state)

    def all(self) -> Sequence[Trial]:
        """The trials of the study, without those that were skipped."""
        return [trial for trial in self._trials().values() if trial.bindings]

    def _ask(self) -> tuple[Trial, Held] | None:
        wanted = min(self._sweep.trials, size(self._sweep.space.values()))
        for _ in range(_DRAWS):
            if len(self._trials()) >= wanted:
                return None
            number = self._suggested()
            trials = self._trials()
            trial, earlier = trials[number], [other for other in trials if other < number]
            # another worker may have asked at the same time: the lower number stays
            new = len(earlier) < wanted and all(trials[other].key != trial.key for other in earlier)
            lock = claim(folder(self._directory, trial)) if new else None
            if lock is not None:
                self.keep(trial)
                return trial, lock
            self._asked(number).set_user_attr(_SKIPPED, True)
            self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)
        self._exhausted = True
        return None

    def _trials(self) -> dict[int, Trial]:
        """Number -> trial as the study knows it."""
        trials = {}
        for frozen in self._study.get_trials(deepcopy=False):
            if _SKIPPED not in frozen.user_attrs:
                record = frozen.user_attrs.get(_TRIAL, {"number": frozen.number, "bindings": self._bindings(frozen)})
                trials[frozen.number] = Trial(**record)
        return trials

    def _begun_here(self) -> list[int]:
        """Numbers of the trials that have a folder here and have not ended, but for those that were stopped here."""
        return [
            number
            for number, trial in self._trials().items()
            if trial.state not in ENDED and number not in self._stopped and folder(self._directory, trial).is_dir()
        ]

    def _bindings(self, frozen: Any) -> dict[str, str]:
        """Choices are stored as gin text, numbers as numbers."""
        return {
            name: text(frozen.params[name]) if isinstance(values, Uniform) else frozen.params[name]
            for name, values in self._sweep.space.items()
            if name in frozen.params
        }

    def _frozen(self, number: int) -> Any:
        return self._study.get_trials(deepcopy=False)[number]

    def _asked(self, number: int) -> Any:
        """Optuna's handle of a trial, also of one that another process has asked for."""
        if number not in self._handles:
            self._handles[number] = self._optuna.trial.Trial(self._study, self._frozen(number)._trial_id)
        return self._handles[number]

    def _suggested(self) -> int:
        """The number of a new trial, whose parameters depend on it, on the seed and on the results so far."""
        asked = self._study.ask()
        self._handles[asked.number] = asked
        # every trial has a seed of its own: a sweep that goes on, and another worker, draw other values
        self._study.sampler = self._optuna.samplers.TPESampler(
            seed=self._sweep.seed + asked.number, n_startup_trials=self._sweep.startup_trials
        )
        with _explained("its space is not the one that it was begun with"):
            for name, values in self._sweep.space.items():
                if isinstance(values, Integer):
                    asked.suggest_int(name, values.low, values.high)
                elif isinstance(values, Uniform):
                    asked.suggest_float(name, values.low, values.high, log=isinstance(values, LogUniform))
                else:
                    asked.suggest_categorical(name, list(dict.fromkeys(text(value) for value in values)))
        return asked.number

    def _pruner(self) -> Any:
        if self._sweep.pruner == "none":
            return self._optuna.pruners.NopPruner()
        return self._optuna.pruners.MedianPruner(self._sweep.startup_trials, self._sweep.warmup_steps)

    def _open(self, name: str, url: str) -> Any:
        """The study of this name, made unless it is there."""
        patience = {"connect_args": {"timeout": 60}}  # seconds that a worker waits for another one's write
        direction = "maximize" if self._sweep.maximize else "minimize"
        for attempt in range(_OPENINGS):
            try:
                storages = self._optuna.storages
                storage = storages.RDBStorage(url, engine_kwargs=patience) if url.startswith("sqlite:") else url
                return self._optuna.create_study(
                    storage=storage, study_name=name, direction=direction, load_if_exists=True, pruner=self._pruner()
                )
            except Exception:  # another worker makes the tables at the same time: each database says so in its way
                if attempt == _OPENINGS - 1:
                    raise
                time.sleep(0.3 * (attempt + 1))
        raise AssertionError


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns errors of Optuna, or of the database beneath it, into one sentence."""
    try:
        yield
    except Exception as error:  # each database has exceptions of its own
        raise UserError(f"sweep: {what}: {str(error).strip().partition(chr(10))[0]}") from error
