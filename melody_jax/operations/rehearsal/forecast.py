"""What a training takes on slices that are not here: from its FLOPs, an MFU, and what storage and input give this machine."""

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import AbstractMesh

from melody_jax import graph
from melody_jax.errors import UserError
from melody_jax.files import read_object
from melody_jax.nn.measured import joined, variables
from melody_jax.operations import configuration
from melody_jax.operations.ahead.program import bytes_per_chip
from melody_jax.operations.rehearsal.slices import Slices
from melody_jax.parallel import mesh
from melody_jax.parallel.init import abstract_state
from melody_jax.system import System
from melody_jax.train.run import Run
from melody_jax.train.stage import HostBatch, Stage
from melody_jax.watch import flops

MFU: dict[str, dict[str, float]] = {
    "autoencoder": {"v5e": 0.076, "v5p": 0.045, "v6e": 0.012},
    "mulan": {"v5e": 0.287, "v5p": 0.216, "v6e": 0.119},
    "semantic": {"v5e": 0.131, "v5p": 0.117, "v6e": 0.057},
    "lm": {"v5e": 0.380, "v5p": 0.317, "v6e": 0.215},
    "dpd": {"v5e": 0.399, "v5p": 0.345, "v6e": 0.196},
}
"""Stage -> chip -> the lowest estimate without overlap in docs/scaling.md. Of other chips the lowest of these is taken."""

HOURS = 257_000
"""Of music, that the publication trains on."""


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Of one training, times in seconds, sizes in bytes.

    Attributes:
      step_flops: model FLOPs of a step of all chips.
      mfu: that is assumed, or that the compiler estimates.
      step: time of one.
      rows: a second, that the stage takes of each host.
      state: on the chip that holds most; parents' weights with it.
      checkpoint: all of it.
      written: of a checkpoint, by the host that writes most.
      run: time of all steps.
      chip_hours: of it.
    """

    step_flops: int
    mfu: float
    step: float
    rows: float
    state: int
    checkpoint: int
    written: int
    run: float
    chip_hours: float


def forecast(stage: Stage, run: Run, slices: Slices, mfu: float | None = None, step: float | None = None) -> Forecast:
    """Of a composed training.

    Args:
      mfu: instead of that of docs/scaling.md.
      step: seconds of a step, where the compiler has estimated it.
    """
    sizes = mesh.parse_mesh(run.mesh, slices.devices)
    state = abstract_state(stage.init, AbstractMesh(tuple(sizes.values()), tuple(sizes)))
    saved = state.replace(frozen={})
    each = bytes_per_chip(saved)
    count = step_flops(stage)
    peak = slices.devices * slices.chip.flops
    mfu = assumed_mfu(stage.name, slices.kind) if mfu is None else mfu
    mfu = mfu if step is None else count / (peak * step)
    step = count / (peak * mfu)
    return Forecast(
        step_flops=count,
        mfu=mfu,
        step=step,
        rows=stage.batch_size / slices.hosts / step,
        state=each,
        checkpoint=sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved)),
        written=each * (slices.devices // slices.hosts),
        run=run.total_steps * step,
        chip_hours=run.total_steps * step * slices.chips / 3600,
    )


def assumed_mfu(stage: str, kind: str) -> float:
    """Of a stage on a kind of chip."""
    return MFU[stage].get(kind) or min(MFU[stage].values())


def step_flops(stage: Stage) -> int:
    """Model FLOPs of a step at the end of a training."""
    state = nn.unbox(jax.eval_shape(stage.init, jax.random.PRNGKey(0)))
    return flops.count(flops.without_remat(stage).train_step, state, stage.batch_shapes())


def compiled_step(file: Path, stage: Stage, run: Run, slices: Slices) -> float:
    """Seconds of the step in a file of what `melody precompile --json` printed.

    Raises:
      UserError: it cannot be read, is of another training, or does not fit.
    """
    report = read_object(file)
    wanted = {"program": stage.name, "batch": stage.batch_size, "chips": slices.devices, "slices": slices.slices}
    found = {name: report.get(name) for name in wanted}
    if found != wanted or mesh.parse_mesh(report.get("mesh", ""), slices.devices) != mesh.parse_mesh(
        run.mesh, slices.devices
    ):
        raise UserError(
            f"--compiled: the report is of {found} and mesh {report.get('mesh')}, not of {wanted} and {run.mesh}"
        )
    if not report.get("seconds"):
        raise UserError("--compiled: this program does not fit on its chips")
    return report["seconds"]


def input_rate(batches: Iterator[HostBatch], rows: int, seconds: float) -> float:
    """Rows a second that the input gives a host which does nothing else."""
    next(batches)
    started, count = time.monotonic(), 0
    while count < 3 or time.monotonic() - started < seconds:
        next(batches)
        count += 1
    return count * rows / (time.monotonic() - started)


@dataclasses.dataclass(frozen=True)
class Whole:
    """A stage's share of the publication's training.

    Attributes:
      steps, batch: of the configuration; 0 where all music is read once.
      passes: over all of the music.
      flops: of everything.
      mfu: assumed.
      chip_hours: that follow.
    """

    steps: int
    batch: int
    passes: float
    flops: float
    mfu: float
    chip_hours: float


def publication(slices: Slices, size: str = "paper") -> dict[str, Whole]:
    """Stage, or "tokens" -> what it takes on chips of these slices, with the steps and batches of configs/sizes."""
    stages, found = {}, {}
    for name in graph.NETWORKS:
        composed = configuration.compose(configuration.gin_files(name, size, "tpu"))
        stage = stages[name] = composed.stage
        steps, batch = composed.run.total_steps, stage.batch_size
        passes = steps * batch * stage.row_seconds / (3600 * HOURS)
        found[name] = _whole(slices, name, steps, batch, passes, steps * step_flops(stage))
    clips = 3600 * HOURS / stages["lm"].geometry.clip_seconds
    readers = {name: stages[name] for name in graph.READ_AUDIO if name in graph.NETWORKS}
    tokens = clips * sum(represent_flops(name, stage) for name, stage in readers.items())
    lowest = min(readers, key=lambda name: assumed_mfu(name, slices.kind))
    return found | {"tokens": _whole(slices, lowest, 0, 0, 1.0, tokens)}


def _whole(slices: Slices, stage: str, steps: int, batch: int, passes: float, count: float) -> Whole:
    mfu = assumed_mfu(stage, slices.kind)
    devices = count / (slices.chip.flops * mfu) / 3600
    return Whole(steps, batch, passes, count, mfu, devices * slices.chips / slices.devices)


def represent_flops(name: str, stage: Any) -> int:
    """Of one clip's way through an audio model when tokens are made."""
    system = System({name: stage.config}, stage.geometry)
    state = nn.unbox(jax.eval_shape(stage.init, jax.random.PRNGKey(0)))
    weights = joined(state.params, state.measured)
    weights = weights[stage.averaged_part] if stage.averaged_part else weights
    method = {"autoencoder": "to_latents", "mulan": "embed_music", "semantic": "features"}[name]
    model = getattr(system, name)
    audio = jax.ShapeDtypeStruct((1, stage.geometry.clip_samples), jnp.float32)
    return flops.count(lambda weights, audio: model.apply(variables(weights), audio, method=method), weights, audio)
