"""The order of the doctor's checks: parts, data set, batches, steps, disk."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import jax

from melody_jax import graph
from melody_jax.errors import StoppedError, UserError
from melody_jax.operations.doctor import disk, inputs, kernels, lineage, one_batch
from melody_jax.operations.doctor.finding import FAILURE, Finding
from melody_jax.operations.opening import Opened, rates_of
from melody_jax.operations.training import Request, prepare_jax
from melody_jax.parallel.batch import check_batch_size, host_shard, widened
from melody_jax.parallel.mesh import make_mesh
from melody_jax.train.stage import Stage, endless
from melody_jax.train.start import calibrated, initial_state

BATCHES = 8  # that are looked into
RATE_SECONDS = 3.0


def examine(request: Request, updates: int) -> Iterator[Finding]:
    """The findings, one by one as they are made. What cannot be looked at is a failure.

    Args:
      updates: of the parameters, on one fixed batch.

    Raises:
      UserError: the configuration is wrong, before the first finding.
    """
    config = request.compose_one()
    stage = config.stage
    check_batch_size(stage.batch_size, make_mesh(config.run.mesh))
    prepare_jax()
    folder = request.model_dir
    if stage.name not in graph.READ_TOKENS:
        folder = getattr(stage, "parents_dir", "") or folder
    findings, parts = lineage.check_parts(Path(folder), graph.needed_by(stage.name), stage.geometry)
    yield from findings
    try:
        yield from _examine_data_set(request, stage, {name: part.id for name, part in parts.items()})
        yield from _examine_run(request.open(config, make_tokens=False), updates)
    except (UserError, StoppedError, jax.errors.JaxRuntimeError) as error:
        yield Finding(FAILURE, "further checks", str(error).partition("\n")[0], "mend this, then look again")


def _examine_data_set(request: Request, stage: Stage, parts: dict[str, str]) -> Iterator[Finding]:
    """Checks of the data set's metadata. Nothing is tokenised here."""
    from data_pipelines import read

    of_tokens = stage.name in graph.READ_TOKENS
    for name in rates_of(request.data):
        audio = read.audio_directory(request.data_dir, name)
        directory = read.tokens_directory(request.model_dir, name) if of_tokens else audio
        facts = read.metadata(directory)
        yield from lineage.check_splits(facts["id"], read.counts(directory), stage.batch_size)
        if directory == audio:
            yield lineage.check_sample_rate(facts["sample_rate"], stage.geometry)
        else:
            source = read.metadata(audio)["id"] if (audio / "metadata.json").is_file() else ""
            yield from lineage.check_tokens(facts, parts, source, stage.geometry)


def _examine_run(opened: Opened, updates: int) -> Iterator[Finding]:
    """Batches, steps and a checkpoint, as `loop.train` would have them."""
    stage, run, mesh = opened.stage, opened.run, opened.mesh
    held_out = []

    def training():
        data = opened.data()
        held_out.append(data.held_out)
        return data.training

    findings, taken, batches = inputs.check_order(training, BATCHES)
    yield from findings
    for what, several in {"batch": taken, "held-out batch": list(map(widened, islice(held_out[0], 1)))}.items():
        findings = inputs.check_shapes(what, several[0], stage.batch_shapes(), host_shard(mesh).count)
        yield from findings
        if any(finding.level == FAILURE for finding in findings):
            return  # the step would not take it
        yield from inputs.check_finite(what, several)
    yield inputs.check_rows(taken)
    yield from inputs.check_contents(taken, stage)
    rate = inputs.measure_rate(endless(batches), RATE_SECONDS)

    stage = one_batch.shortened(stage, updates)
    state = calibrated(stage, initial_state(stage, run.seed, mesh), endless(batches))
    yield from kernels.check_kernels(stage, state, mesh, taken[0])
    shown = one_batch.take_steps(stage, state, mesh, taken[0], updates)
    yield from shown.findings
    if shown.step_seconds > 0:
        yield inputs.check_rate(rate, shown.step_seconds, taken[0], stage.geometry)
    yield from disk.check_disk(shown.state, batches, Path(run.model_dir), stage.name, run.keep)
