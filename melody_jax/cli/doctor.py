"""`melody doctor STAGE`: what to look at before a long training: inputs, one step, one batch by heart, the disk."""

import argparse
import dataclasses
import inspect
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import jax

from melody_jax import stages
from melody_jax.cli import train
from melody_jax.cli.configuration import RunConfig
from melody_jax.doctor import disk, inputs, kernels, lineage, rehearsal
from melody_jax.doctor.finding import FAILURE, Finding
from melody_jax.errors import UserError
from melody_jax.generate.represent import NEEDED
from melody_jax.parallel import hosts
from melody_jax.parallel.batch import check_batch_size, host_shard
from melody_jax.parallel.mesh import DEFAULT, make_mesh
from melody_jax.train import loop
from melody_jax.train.hooks import StoppedError
from melody_jax.train.stage import Stage
from melody_jax.train.steps import calibrated, initial_state

BATCHES = 8  # that are looked into
RATE_SECONDS = 3.0


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("doctor", help="check data, one step and the disk before a long training")
    parser.set_defaults(run=run)
    train.add_configuration(parser, ", ".join(stages.ORDER))
    parser.add_argument("--steps", type=int, default=30, help="updates on one fixed batch (default 30)")
    parser.add_argument("--json", action="store_true", help="the findings as one JSON list")


def run(args: argparse.Namespace) -> int:
    """Prints the findings. Exit code 1: at least one is a failure.

    Raises:
      UserError: unknown names, bindings that nobody reads, or a mesh that does not fit.
    """
    if args.steps < 1:
        raise UserError(f"--steps must be at least 1, got {args.steps}")
    hosts.join()
    config = train.compose(args, (args.stage,))[args.stage]
    check_batch_size(config.stage.batch_size, make_mesh(config.train.get("mesh", DEFAULT)))
    train.prepare_jax()
    findings, first_host = [], jax.process_index() == 0
    for finding in _examine(args, config):
        findings.append(finding)
        if first_host and not args.json:
            print(finding, flush=True)
    if first_host and args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    return int(any(finding.level == FAILURE for finding in findings))


def _examine(args: argparse.Namespace, config: RunConfig) -> Iterator[Finding]:
    """The findings, one by one as they are made. What cannot be looked at is a failure."""
    stage = config.stage
    of_tokens = stage.name in train.TOKEN_STAGES
    folder = args.model_dir if of_tokens else getattr(stage, "parents_dir", "") or args.model_dir
    needed = NEEDED if of_tokens else stages.PARENTS.get(stage.name, ())
    findings, parts = lineage.check_parts(Path(folder), needed, stage.geometry)
    yield from findings
    try:
        yield from _examine_data_set(args, stage, {name: part.id for name, part in parts.items()})
        yield from _examine_run(args, config, train.with_parents(stage, args.model_dir))
    except (UserError, StoppedError, jax.errors.JaxRuntimeError) as error:
        yield Finding(FAILURE, "further checks", str(error).partition("\n")[0], "mend this, then look again")


def _examine_data_set(args: argparse.Namespace, stage: Stage, parts: dict[str, str]) -> Iterator[Finding]:
    """What the data set says of itself. Nothing is tokenised here."""
    from data_pipelines import read

    audio = read.audio_directory(args.data_dir, args.data)
    directory = read.tokens_directory(args.model_dir, args.data) if stage.name in train.TOKEN_STAGES else audio
    facts = read.metadata(directory)
    yield from lineage.check_splits(facts["id"], read.counts(directory), stage.batch_size)
    if directory == audio:
        yield lineage.check_sample_rate(facts["sample_rate"], stage.geometry)
    else:
        source = read.metadata(audio)["id"] if (audio / "metadata.json").is_file() else ""
        yield from lineage.check_tokens(facts, parts, source, stage.geometry)


def _examine_run(args: argparse.Namespace, config: RunConfig, stage: Stage) -> Iterator[Finding]:
    """Batches, steps and a checkpoint, as `loop.train` would have them."""
    mesh, seed = config.train.get("mesh", DEFAULT), config.train.get("seed", 0)
    grid, held_out = make_mesh(mesh), []

    def opened():
        training, evaluation = train.open_data(args, stage, mesh, seed)
        held_out.append(evaluation)
        return training

    findings, taken, batches = inputs.check_order(opened, BATCHES)
    yield from findings
    for what, several in {"batch": taken, "held-out batch": list(islice(held_out[0], 1))}.items():
        findings = inputs.check_shapes(what, several[0], stage.batch_shapes(), host_shard(grid).count)
        yield from findings
        if any(finding.level == FAILURE for finding in findings):
            return  # the step would not take it
        yield from inputs.check_finite(what, several)
    yield inputs.check_rows(taken)
    yield from inputs.check_contents(taken, stage)
    rate = inputs.measure_rate(iter(lambda: next(batches), None), RATE_SECONDS)

    stage = rehearsal.shortened(stage, args.steps)
    state = initial_state(stage, seed, grid)
    state = calibrated(stage, state, iter(lambda: next(batches), None))
    yield from kernels.check_kernels(stage, state, grid, taken[0])
    shown = rehearsal.rehearse(stage, state, grid, taken[0], args.steps)
    yield from shown.findings
    if shown.step_seconds > 0:
        yield inputs.check_rate(rate, shown.step_seconds, taken[0], stage.geometry)
    keep = config.train.get("keep", inspect.signature(loop.train).parameters["keep"].default)
    yield from disk.check_disk(shown.state, batches, Path(args.model_dir), stage.name, keep)
