"""What can be refused before a rehearsal runs, and what is rehearsed."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from melody_jax import graph
from melody_jax.errors import UserError
from melody_jax.operations import opening, tokens
from melody_jax.operations.configuration import RunConfig
from melody_jax.operations.fit import check_fit
from melody_jax.operations.rehearsal.forecast import compiled_step
from melody_jax.operations.rehearsal.slices import Slices
from melody_jax.operations.rehearsal.small import Small, small
from melody_jax.operations.training import Request


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
