"""The order of a rehearsal that is prepared: the forecast, storage and input, the pod, the page."""

from collections.abc import Iterator
from pathlib import Path

from melody_jax import storage
from melody_jax.operations import opening
from melody_jax.operations.rehearsal import page, trial
from melody_jax.operations.rehearsal.forecast import forecast, input_rate, publication
from melody_jax.operations.rehearsal.prepare import Rehearsal
from melody_jax.train.stage import HostBatch, Stage

PAGE, LOG = "page.md", "pod.txt"
EVERY = 10
"""Steps between two checkpoints."""
INPUT_SECONDS = 5.0
MOST_WRITTEN = 256_000_000
"""Bytes with which the storage is measured, at most."""
PUBLISHED = "paper"
"""The size whose whole training is added up."""


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
