"""The order of a rehearsal: what can be refused is refused first, then storage and input, the pod, the forecast, the page."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from melody_jax import graph, storage
from melody_jax.errors import UserError
from melody_jax.operations import opening, tokens
from melody_jax.operations.configuration import RunConfig
from melody_jax.operations.fit import check_fit
from melody_jax.operations.rehearsal import page, trial
from melody_jax.operations.rehearsal.forecast import compiled_step, forecast, input_rate, publication
from melody_jax.operations.rehearsal.slices import Slices
from melody_jax.operations.rehearsal.small import Small, small
from melody_jax.operations.training import Request
from melody_jax.train.stage import HostBatch, Stage

PAGE, LOG = "page.md", "pod.txt"
EVERY = 10
"""Steps between two checkpoints."""
INPUT_SECONDS = 5.0
MOST_WRITTEN = 256_000_000
"""Bytes with which the storage is measured, at most."""
PUBLISHED = "paper"
"""The size whose whole training is added up."""


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """A launch that can be rehearsed.

    Attributes:
      name: of the launch.
      slices: that it asks for.
      words: of its command after `melody`, as they are run here.
      request: what they say.
      config: that they compose.
      small: what runs here.
      step: seconds of a step, where the compiler has estimated it; None otherwise.
      mfu: that is assumed without; None for that of docs/scaling.md.
    """

    name: str
    slices: Slices
    words: Sequence[str]
    request: Request
    config: RunConfig
    small: Small
    step: float | None = None
    mfu: float | None = None


def prepare(
    name: str,
    slices: Slices,
    words: Sequence[str],
    request: Request,
    hosts: int | None = None,
    mfu: float | None = None,
    compiled: Path | None = None,
) -> Rehearsal:
    """Looks at all that can be wrong before anything runs.

    Args:
      compiled: file of what `melody precompile --json` printed of this training.

    Raises:
      UserError: a bad option, or the training does not compose, does not fit the slices or a pod here, or lacks parts,
        data or tokens.
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise UserError(f"--mfu must be in (0, 1], got {mfu}")
    if request.stage not in graph.NETWORKS:
        raise UserError(
            f"a rehearsal is of one stage with a network ({', '.join(graph.NETWORKS)}), not of {request.stage}"
        )
    configs = request.compose()
    check_fit(configs, slices.devices, slices.slices)
    config = configs[request.stage]
    stage, run = config.stage, config.run
    fitting = small(slices, run.mesh, stage.batch_size, hosts)
    step = None if compiled is None else compiled_step(compiled, stage, run, slices)
    needed = graph.needed_by(stage.name)
    tokens.finished(request.model_dir, needed)
    for data in opening.rates_of(request.data):
        opening.data_directory("", "", data, request.data_dir)  # the audio, of which tokens are made too
        if stage.name in graph.READ_TOKENS:
            tokens.check(request.model_dir, data, request.data_dir)
    return Rehearsal(name, slices, words, request, config, fitting, step, mfu)


def rehearse(what: Rehearsal, start: trial.StartPod, folder: Path) -> tuple[str, bool]:
    """The page, which is written too, and whether the training went on without a seam.

    Args:
      start: starts `what.small.hosts` hosts.
      folder: gets the page, and what the hosts print.

    Raises:
      UserError: the storage cannot be written to.
      StoppedError: a start ended otherwise than it should.
    """
    stage, run, slices = what.config.stage, what.config.run, what.slices
    model_dir = storage.path(what.request.model_dir)
    predicted = forecast(stage, run, slices, what.mfu, what.step)
    folder.mkdir(parents=True, exist_ok=True)
    with trial.folder(model_dir) as made, (folder / LOG).open("w") as said:
        written = trial.write_rate(made, min(predicted.written, MOST_WRITTEN))
        rate = input_rate(_batches(what, stage), stage.batch_size // slices.hosts, INPUT_SECONDS)
        words = [*what.words, *what.small.words(stage)]
        shown = trial.rehearse(words, model_dir, EVERY, start, said)
    whole = publication(slices) if what.request.size == PUBLISHED else {}
    text = page.page(what, predicted, shown, page.Measured(rate, written), whole)
    (folder / PAGE).write_text(text)
    return text, shown.seamless


def _batches(what: Rehearsal, stage: Stage) -> Iterator[HostBatch]:
    """Those of the first host of the slices."""
    from data_pipelines import batches

    request, run = what.request, what.config.run
    where = {
        opening.data_directory(stage.name, request.model_dir, name, request.data_dir): rate
        for name, rate in opening.rates_of(request.data).items()
    }
    stage = opening.with_parents(stage, request.model_dir)
    for directory in where:
        opening.check_geometry(stage, directory)
    options = {"tokenizer": request.tokenizer, "shard": 0, "shards": what.slices.hosts}
    return batches.for_stage(stage, stage.geometry, where, seed=run.seed, **options)
