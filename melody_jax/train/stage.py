"""The protocol between the training loop and a trainable thing.

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
<stage>.gin binds `loop.train.total_steps = %TOTAL_STEPS` and `optim.OptimConfig.total_steps = %TOTAL_STEPS`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import numpy as np

from melody_jax.geometry import Geometry
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


@runtime_checkable
class Stage(Protocol):
    """One trainable thing. Methods are pure unless said otherwise; shapes are global."""

    name: ClassVar[str]
    starts: ClassVar[Mapping[str, str]] = {}
    """Name of a part -> where its weights go in `TrainState.params` ("/" between names) when training starts from it."""
    measured: ClassVar[tuple[str, ...]] = ()
    """First names of parameters of the stage's own part that are measured, not learned: none of `TrainState.params`."""
    positions: ClassVar[tuple[str, ...]] = ()
    """Tables of positions in `TrainState.params`: starting from a longer one takes its first rows."""
    averaged_part: ClassVar[str] = ""
    """The sub-tree of `TrainState.params` that `TrainState.ema` averages; "" for all of it."""
    config: Any
    geometry: Geometry
    batch_size: int
    rollback_after: int = 0
    """So many steps in a row that the stage skipped (its metric `skipped_in_a_row`) send the run back to its last good
    checkpoint; 0: never."""

    @property
    def row_seconds(self) -> float:
        """Seconds of audio that a step learns from in one row of a batch."""
        return self.geometry.clip_seconds

    @property
    def row_tokens(self) -> int:
        """Ids in the sequence that a step makes of one row of a batch; 0 where the model reads none."""
        return 0

    def phase(self, step: int) -> "Stage":
        """The stage whose `train_step` takes the step after `step` steps: itself, or one that differs from it for a part
        of the training, with the same state. Every phase is compiled when it is reached."""
        return self

    def init(self, key: jax.Array) -> TrainState:
        """The state before step 0, parameters boxed with logical axes.

        The loop evaluates it abstractly, derives shardings, and jits it with them; so no file is read here. Inside
        `train_step` and `eval_step` the state arrives unboxed.
        """
        ...

    def load(self, state: TrainState) -> TrainState:
        """Host side, once per start, after `init` and before a checkpoint is restored: weights from outside.

        A stage with parents replaces `state.frozen` by their weights, one that starts from published weights replaces
        leaves of `state.params` (and `state.ema`); numpy arrays are welcome, the loop places them. Raises UserError
        where a parent is missing.
        """
        return state

    def calibrate(self, state: TrainState, batches: Iterator[HostBatch]) -> TrainState:
        """Host side, once per run before its first step: what is measured on training data goes into `state.extra`.

        A restart finds it in the checkpoint. On every host, with the host's batches; numpy arrays are welcome, the loop
        places them.
        """
        return state

    def train_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        """One update; metrics are scalars, means over the global batch. Increments `state.step`."""
        ...

    def eval_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> Metrics:
        """Metrics of `state.averaged` on a held-out batch: scalars, means over the batch."""
        ...

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Global shapes and dtypes of one batch, first dimension `batch_size`."""
        ...

    def finish(self, state: TrainState, batches: Iterator[HostBatch]) -> dict[str, Any]:
        """Parameters of the part, on hosts or devices, from the last state; `batches` (training) serve for calibration.

        `state.averaged` is the usual answer. Called once, after the last step; on every host.
        """
        ...

    def part(self) -> tuple[Any, Geometry, dict[str, str]]:
        """(config dataclass, geometry, {parent's name: parent's id}) of the part that this stage makes."""
        ...
