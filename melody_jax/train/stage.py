"""What the training loop knows of a trainable thing, and of its data.

The loop, checkpoints, ahead-of-time compilation and tests see this and nothing else of a model. A stage is a frozen
dataclass that subclasses `Stage`, with the fields `config`, `geometry`, `optim`, `batch_size` first, then its own:

    @dataclasses.dataclass(frozen=True)
    class DPDStage(Stage):
        config: DPDConfig
        geometry: Geometry
        optim: OptimConfig
        batch_size: int
        name: ClassVar[str] = "dpd"

In gin the number of steps stands once, as the macro TOTAL_STEPS of configs/sizes/<size>/<stage>.gin; configs/stages/
<stage>.gin binds `loop.Run.total_steps = %TOTAL_STEPS` and `optim.OptimConfig.total_steps = %TOTAL_STEPS`.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.parallel.batch import widened
from melody_jax.storage import Path
from melody_jax.train.optim import OptimConfig
from melody_jax.train.state import TrainState

Metrics = dict[str, jax.Array]
HostBatch = Mapping[str, np.ndarray]


@runtime_checkable
class Batches(Protocol):
    """A resumable iterator over host-local batches (this host's rows of the global batch)."""

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch, each array with this host's share of the global batch as its first dimension."""
        ...

    def save(self, directory: Path) -> None:
        """Writes the position (of this host) into an existing empty directory."""
        ...

    def restore(self, directory: Path) -> None:
        """Continues after the last batch that had been given out when `save` wrote `directory`."""
        ...


class Data(NamedTuple):
    """The batches of one run, of this host.

    Attributes:
      training: their position is part of a checkpoint.
      held_out: for evaluation.
    """

    training: Batches
    held_out: Iterator[HostBatch]


def endless(batches: Batches) -> Iterator[HostBatch]:
    """The following batches as a plain iterator, sound and latents as float32, for what a stage measures on the
    host."""
    return iter(lambda: widened(next(batches)), None)


class Stage(ABC):
    """One trainable thing. Methods are pure unless said otherwise; shapes are global."""

    name: ClassVar[str]
    part_name: ClassVar[str] = ""
    """Name of the part that it makes; "" for the stage's name."""
    starts: ClassVar[Mapping[str, str]] = {}
    """Name of a part -> where its weights go in `TrainState.params` ("/" between names) when training starts from it."""
    positions: ClassVar[tuple[str, ...]] = ()
    """Tables of positions in `TrainState.params`; from a longer table in the part, the first rows are taken."""
    residual: ClassVar[str] = ""
    """Name of residual layers, NAME_0 and so on: where a part has fewer of them, the others begin as the identity."""
    unread: ClassVar[Mapping[str, str]] = {}
    """First name in `TrainState.params` -> the data for which these parameters may rightly have no gradient."""
    averaged_part: ClassVar[str] = ""
    """The sub-tree of `TrainState.params` that `TrainState.ema` averages; "" for all of it."""
    config: Any
    geometry: Geometry
    batch_size: int
    rollback_after: int = 0
    """After this many steps in a row that the stage skipped (its metric `skipped_in_a_row`) the run goes back to its last
    good checkpoint; 0: never."""

    @property
    def row_seconds(self) -> float:
        """Seconds of audio that a step learns from in one row of a batch."""
        return self.geometry.clip_seconds

    @property
    def row_tokens(self) -> int:
        """Ids in the sequence that a step makes of one row of a batch; 0 where the model reads none."""
        return 0

    def check(self, total_steps: int) -> None:
        """Refuses a configuration in which `total_steps` are too few for the stage to learn anything.

        A stage in which something starts at a later step adds its own check.

        Raises:
          UserError: no rows in a batch, or an optimiser that accumulates over more steps than there are.
        """
        if self.batch_size < 1:
            raise UserError(f"{self.name}: the batch size must be at least 1, got {self.batch_size}")
        for name, optim in self.optimisers.items():
            if optim.accumulate > total_steps:
                raise UserError(
                    f"{self.name}: {name} adds up the gradients of {optim.accumulate} steps before its first update, and "
                    f"the training ends after {total_steps}; use more --total_steps or a smaller OptimConfig.accumulate"
                )

    @property
    def optimisers(self) -> dict[str, OptimConfig]:
        """The stage's optimisers, by field."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]
        return {name: value for name, value in fields.items() if isinstance(value, OptimConfig)}

    def phase(self, step: int) -> "Stage":
        """The stage whose `train_step` takes the step after `step` steps: this stage, or another one with the same
        state for a part of the training. Every phase is compiled when it is reached."""
        return self

    @abstractmethod
    def init(self, key: jax.Array) -> TrainState:
        """The state before step 0, parameters boxed with logical axes.

        The loop evaluates it abstractly, derives shardings, and jits it with them; so no file is read here. Inside
        `train_step` and `eval_step` the state arrives unboxed.
        """

    def load(self, state: TrainState) -> TrainState:
        """Host side, once per start, after `init` and before a checkpoint is restored: weights from outside.

        A stage with parents replaces `state.frozen` by their weights, one that starts from published weights replaces
        leaves of `state.params` (and `state.ema`); the loop places NumPy arrays. Raises UserError if a parent is
        missing.
        """
        return state

    def calibrate(self, state: TrainState, batches: Iterator[HostBatch]) -> TrainState:
        """Host side, once per run before its first step: measures on training data, and puts the values into
        `state.measured`.

        Called on every host, with the host's batches. The loop places NumPy arrays on devices. A restart reads the
        values from its checkpoint.
        """
        return state

    @abstractmethod
    def train_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        """One update; metrics are scalars, means over the global batch. Increments `state.step`."""

    @abstractmethod
    def eval_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> Metrics:
        """Metrics of `state.averaged` on a held-out batch: scalars, means over the batch."""

    @abstractmethod
    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Global shapes and dtypes of one batch, first dimension `batch_size`."""

    @abstractmethod
    def finish(self, state: TrainState, batches: Iterator[HostBatch]) -> dict[str, Any]:
        """Parameters of the part from the last state, on host or devices; `batches` of training are for stages that
        measure at the end.

        `state.averaged` is the usual answer. Called once, after the last step; on every host.
        """

    @abstractmethod
    def part(self) -> tuple[Any, Geometry, dict[str, str]]:
        """(config dataclass, geometry, {parent's name: parent's id}) of the part that this stage makes."""
