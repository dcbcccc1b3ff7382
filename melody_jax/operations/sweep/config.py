"""What a sweep is: a training command, the bindings to vary, how, and what counts as better."""

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.files import read_object, write_whole
from melody_jax.operations.sweep.ranges import Uniform, Values, size, text

KINDS = ("grid", "random", "optuna")
_RECORD = "sweep.json"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Trials of `melody train STAGE --size SIZE --data DATA`, each with other values of the bindings in `space`.

    Attributes:
      stage, size, data, data_dir, hardware: the arguments of `melody train`.
      space: binding (any that gin knows: a parameter or a macro) -> list of its values, or a range.
      kind: "grid" (every combination of the lists, the last binding varying fastest), "random" (independent draws), or
        "optuna" (each trial is chosen by the results before it, with a tree-structured Parzen estimator).
      trials: how many different ones; 0 is a whole grid.
      seed: of the draws.
      bindings: bindings that all trials share.
      gin_files: further gin files that all trials share.
      parents_dir: a model folder; its finished stages and its tokens serve all trials and are only read.
      metric: "split/name" of metrics.jsonl.
      maximize: whether more of it is better.
      take: the "best" value of a trial counts, or its "last".
      pruner: "median" ends a trial whose best value so far is worse than the median of the earlier ones at the same
        step, "none" ends none. For the kind "optuna".
      startup_trials: number of trials drawn at random; as many must have finished before one is pruned.
      warmup_steps: no trial is pruned at an earlier training step.
      storage: URL of Optuna's database, shared by many workers; "" is an SQLite file in the sweep's folder.

    Raises:
      UserError: a field has a value that it cannot have.
    """

    stage: str
    size: str
    data: str
    space: Mapping[str, Values]
    kind: str = "grid"
    trials: int = 0
    seed: int = 0
    data_dir: str = storage.DATA_DIR
    hardware: str = "auto"
    bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    gin_files: Sequence[str] = ()
    parents_dir: str = ""
    metric: str = "eval/loss"
    maximize: bool = False
    take: str = "best"
    pruner: str = "none"
    startup_trials: int = 5
    warmup_steps: int = 0
    storage: str = ""

    def __post_init__(self) -> None:
        for name, known in {"kind": KINDS, "take": ("best", "last"), "pruner": ("none", "median")}.items():
            if getattr(self, name) not in known:
                raise UserError(f"sweep: {name} {getattr(self, name)!r} is none of {', '.join(known)}")
        if not isinstance(self.space, Mapping) or not self.space:
            raise UserError("sweep: space must name at least one binding with its values")
        for name, values in self.space.items():
            if not isinstance(values, (Uniform, list, tuple)) or (not isinstance(values, Uniform) and not values):
                raise UserError(f"sweep: {name} needs a range or a list of at least one value, got {values!r}")
            if isinstance(values, Uniform) and self.kind == "grid":
                raise UserError(f"sweep: a grid needs a list of values, but {name} is a range")
            if name in self.bindings:
                raise UserError(f"sweep: {name} is both in space and in bindings")
        least = {"trials": int(self.kind != "grid"), "seed": 0, "startup_trials": 0, "warmup_steps": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise UserError(f"sweep: {name} must be a whole number of at least {low}, got {value!r}")
        if self.kind != "optuna" and (self.pruner != "none" or self.storage):
            raise UserError(f'sweep: pruner and storage are for the kind "optuna", this is a {self.kind} sweep')
        if not all(self.metric.partition("/")):
            raise UserError(f'sweep: metric {self.metric!r} must be "split/name", as eval/loss')

    def fixed(self) -> list[str]:
        """The shared bindings, each "name=value"."""
        return [f"{name}={text(value)}" for name, value in self.bindings.items()]

    def proposals(self) -> list[dict[str, str]]:
        """The bindings, name -> gin text, of every trial of a grid or random sweep, in order and without duplicates."""
        chosen: dict[tuple, dict[str, str]] = {}
        wanted = min(self.trials or math.inf, size(self.space.values()))
        for values in self._grid() if self.kind == "grid" else self._draws():
            bindings = {name: text(value) for name, value in zip(self.space, values, strict=True)}
            chosen.setdefault(tuple(bindings.values()), bindings)
            if len(chosen) == wanted:
                break
        return list(chosen.values())

    def keep_record(self, directory: Path) -> None:
        """Writes down what all trials of a sweep's folder have in common.

        Raises:
          UserError: the trials that are there have other things in common.
        """
        names = ("stage", "size", "data", "bindings", "gin_files", "metric", "maximize", "take")
        record = json.loads(json.dumps({name: getattr(self, name) for name in names}, default=repr))
        file = directory / _RECORD
        before = read_object(file) if file.exists() else record
        different = [name for name in names if before.get(name) != record[name]]
        if different:
            name = different[0]
            raise UserError(
                f"{directory} holds trials with {name} {before.get(name)!r}, not {record[name]!r}; choose another folder"
            )
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(record, indent=1) + "\n")

    def _grid(self) -> Iterator[tuple]:
        return itertools.product(*(values for values in self.space.values() if not isinstance(values, Uniform)))

    def _draws(self) -> Iterator[tuple]:
        rng = random.Random(self.seed)
        while True:
            yield tuple(
                values.draw(rng) if isinstance(values, Uniform) else rng.choice(list(values))
                for values in self.space.values()
            )
