"""The compiled steps of a run, and how their metrics come from the device to the log."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from melody_jax import precompiled
from melody_jax.errors import UserError
from melody_jax.parallel.batch import batch_sharding, place_batch
from melody_jax.parallel.hosts import barrier, compiled
from melody_jax.parallel.rules import on_mesh
from melody_jax.train.end import check_finite
from melody_jax.train.stage import HostBatch, Stage
from melody_jax.train.state import TrainState


def train_program(stage: Stage, mesh: Mesh, layout: Any) -> Any:
    """The stage's training step over the mesh, jitted, its state donated.

    `layout` is a tree of shardings with the structure of the state; the rules lay out activations.
    """
    whole, rows = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
    step = on_mesh(stage.train_step, mesh)
    return jax.jit(step, in_shardings=(layout, rows), out_shardings=(layout, whole), donate_argnums=0)


def eval_program(stage: Stage, mesh: Mesh, layout: Any) -> Any:
    """The stage's evaluation step over the mesh, jitted; `layout` as of `train_program`."""
    whole, rows = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
    return jax.jit(on_mesh(stage.eval_step, mesh), in_shardings=(layout, rows), out_shardings=whole)


class Steps:
    """Runs a stage's steps over a mesh, one step ahead of the reading of metrics.

    Attributes:
      state: after the last dispatched step.
      skipped: number of steps in a row that the stage had skipped, when metrics were last read.
    """

    def __init__(self, stage: Stage, mesh: Mesh, state: TrainState, precompiled_dir: str = ""):
        self.state = state
        self.skipped = 0
        self._step = int(state.step)
        self._mesh = mesh
        self._shapes = stage.batch_shapes()
        layout = jax.tree.map(lambda leaf: leaf.sharding, state)
        self._stage, self._layout = stage, layout
        self._train_steps: dict[Stage, Any] = {}  # of the phases reached so far
        self._eval_step: Any = None
        self._precompiled_dir = precompiled_dir
        self._pending: list[tuple[int, Mapping[str, jax.Array]]] = []
        self._unlogged: list[dict[str, float]] = []

    def dispatch(self, batch: HostBatch) -> None:
        """Starts the next step, then reads the metrics of the one before: the device never waits for the host.

        Raises:
          UserError: the batch is not what the stage asked for.
          StoppedError: a metric of the step before is not finite.
        """
        placed = self._place(batch)
        self.state, metrics = self._train_step(placed)(self.state, placed)
        self.read()
        self._step += 1
        self._pending.append((self._step, metrics))

    def read(self) -> None:
        """Waits for every dispatched step and checks its metrics; raises StoppedError as `dispatch`."""
        while self._pending:
            step, metrics = self._pending.pop(0)
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            self.skipped = int(values.get("skipped_in_a_row", 0))
            if self.skipped:  # its metrics were dropped
                values = {name: value for name, value in values.items() if math.isfinite(value)}
            check_finite(values, step)
            self._unlogged.append(values)

    def wait(self) -> None:
        """Waits until every dispatched step is done. Reads no metrics, so that it does not change the run."""
        jax.block_until_ready(self.state)

    def go_back(self, state: TrainState) -> None:
        """Continues from another state of the same run; steps dispatched before are forgotten."""
        self.state, self.skipped, self._step = state, 0, int(state.step)
        self._pending.clear()

    def take_means(self) -> dict[str, float]:
        """Means of every metric since the last call."""
        self.read()
        names = {name for values in self._unlogged for name in values}
        means = {name: float(np.mean([v[name] for v in self._unlogged if name in v])) for name in sorted(names)}
        self._unlogged = []
        return means

    def evaluate(self, held_out: Sequence[HostBatch]) -> dict[str, float]:
        """Means over the held-out batches.

        Raises:
          StoppedError: a metric is not finite.
        """
        self.read()
        results = [jax.device_get(self._evaluated(self._place(batch))) for batch in held_out]
        means = {name: float(np.mean([values[name] for values in results])) for name in results[0]}
        check_finite({f"eval/{name}": value for name, value in means.items()}, self._step)
        return means

    def _evaluated(self, placed: dict[str, jax.Array]) -> dict[str, jax.Array]:
        if self._eval_step is None:
            program = eval_program(self._stage, self._mesh, self._layout)
            self._eval_step = compiled(program, self.state, placed)
        return self._eval_step(self.state, placed)

    def _train_step(self, placed: dict[str, jax.Array]) -> Any:
        """The program of the phase: a precompiled one if there is one."""
        phase = self._stage.phase(self._step)
        if phase not in self._train_steps:
            program = train_program(phase, self._mesh, self._layout)
            found = self._executable(program, placed) if self._precompiled_dir else None
            self._train_steps[phase] = found or compiled(program, self.state, placed)
        return self._train_steps[phase]

    def _executable(self, program: Any, placed: dict[str, jax.Array]) -> Any:
        lowered = precompiled.lower(program, self.state, placed)
        devices = self._mesh.devices.ravel().tolist()
        key = precompiled.key_of(lowered.as_text(), devices)
        found = precompiled.load(self._precompiled_dir, key, devices) or lowered.compile()
        barrier()
        return found

    def _place(self, batch: HostBatch) -> dict[str, jax.Array]:
        placed = place_batch(batch, self._mesh)
        for name, wanted in self._shapes.items():
            array = placed.get(name)
            if array is None or array.shape != wanted.shape or array.dtype != wanted.dtype:
                found = "absent" if array is None else f"{array.dtype}{list(array.shape)}"
                raise UserError(f"batch: {name} is {found}, the stage wants {wanted.dtype}{list(wanted.shape)}")
        return placed
