"""`melody launch TARGET`: a training run on TPU VMs, GKE or SLURM. `melody rehearse FILE`: the same on a pod simulated here."""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import melody_jax
from launch import job as descriptions
from launch.processes import LaunchError, Runner
from melody_jax.cli.arguments import Positive, command, option
from melody_jax.errors import FAILED, UserError

GRACE = 10.0
"""Seconds for simulated hosts that have lost one of them: they have nothing to save."""


@command(
    option("target", "where", choices=descriptions.TARGETS),
    option("--config", "the description, as in configs/launch", required=True, metavar="FILE"),
    option("--dry_run", "print what would be executed, and do nothing", action="store_true"),
    option("--out", "logs and scripts go to DIR/NAME (default runs/launch)", default="runs/launch", metavar="DIR"),
)
def launch(args: argparse.Namespace) -> int:
    job = descriptions.read(args.config)
    _check_training(job, args.target)
    with Runner(Path(args.out) / job.name, args.dry_run) as runner:
        try:
            return importlib.import_module(f"launch.{descriptions.TARGETS[args.target]}").launch(job, runner)
        except LaunchError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code


def _check_training(job: descriptions.Job, target: str) -> None:
    """Composes a training as every worker will, if it ships this code, and lays it over the chips that are asked for.

    Raises:
      UserError: arguments or bindings that nobody reads, or a batch or parameters that do not divide over the mesh.
    """
    chips, slices = job.chips(target)
    if not _ships_this_code(job) or not chips or not _trains(job):
        return
    from melody_jax.cli import train
    from melody_jax.operations.fit import check_fit

    request = train.request_in(job.command[1:], "gpu" if target == "slurm" else "tpu")
    if any(descriptions.BUCKET in file for file in request.gin_files):
        return  # read where it lies
    with contextlib.chdir(job.code):
        check_fit(request.compose(), chips, slices)


def _ships_this_code(job: descriptions.Job) -> bool:
    return Path(job.code).resolve() == Path(melody_jax.__file__).parents[1].resolve()


def _trains(job: descriptions.Job) -> bool:
    return job.command[:2] == ("melody", "train")


@command(
    option("file", "the description of the launch, as in configs/launch", metavar="FILE"),
    option("--bucket", "where its bucket is mounted here (default: the bucket itself, gs://NAME)", metavar="DIR"),
    option(
        "--hosts",
        "of the simulated pod (default: as many as the slices have or this machine has cores, two at least)",
        action=Positive,
    ),
    option("--mfu", "on the slices, as 0.4 (default: an estimate of docs/scaling.md)", type=float),
    option("--compiled", "what melody precompile --json printed, in place of --mfu", metavar="FILE"),
    option(
        "--out", "page.md and pod.txt go to DIR/NAME (default runs/rehearsal)", default="runs/rehearsal", metavar="DIR"
    ),
    epilog="Exit code 1: the training that went on after a killed host is another one.",
)
def rehearse(args: argparse.Namespace) -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"
    from launch.local_pod import Pod
    from melody_jax.cli import train
    from melody_jax.operations.rehearsal import rehearse as rehearsal
    from melody_jax.operations.rehearsal.prepare import prepare
    from melody_jax.operations.rehearsal.slices import Slices

    job = descriptions.read(args.file)
    if not _ships_this_code(job):
        raise UserError(f"{args.file} launches the code in {job.code}: call `melody rehearse` from there")
    words = job.words(args.bucket or job.bucket)[1:]
    if not _trains(job):
        raise UserError(f"{args.file}: only a `melody train` can be rehearsed")
    chips, slices = job.chips("tpu")
    facts = Slices(job.tpu.chip, job.tpu.chips * slices, chips, job.tpu.hosts * slices, slices)
    request, folder = train.request_in(words, "tpu"), Path(args.out).absolute() / job.name
    compiled = None if args.compiled is None else Path(args.compiled).absolute()
    with contextlib.chdir(job.code):
        what = prepare(job.name, facts, words, request, args.hosts, args.mfu, compiled)

        def start(command: Sequence[str], log: TextIO, kill_when: Callable[[], bool] | None) -> int:
            return Pod(command, what.small.hosts, what.small.devices, GRACE, log).run(kill_when)

        page, seamless = rehearsal.rehearse(what, start, folder)
    print(page, end="")
    return 0 if seamless else FAILED
