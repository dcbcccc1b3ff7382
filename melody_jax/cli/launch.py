"""`melody launch TARGET`: a training run on TPU VMs, GKE or SLURM."""

import argparse
import contextlib
import importlib
import sys
from pathlib import Path

import melody_jax
from launch import job as descriptions
from launch.processes import LaunchError, Runner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", choices=descriptions.TARGETS, help="where")
    parser.add_argument("--config", required=True, metavar="FILE", help="the description, as in configs/launch")
    parser.add_argument("--dry_run", action="store_true", help="print what would be executed, and do nothing")
    text = "logs and scripts go to DIR/NAME (default runs/launch)"
    parser.add_argument("--out", default="runs/launch", metavar="DIR", help=text)


def run(args: argparse.Namespace) -> int:
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
    ours = Path(melody_jax.__file__).parents[1].resolve() == Path(job.code).resolve()
    chips, slices = job.chips(target)
    if not ours or not chips or job.command[:2] != ("melody", "train"):
        return
    from melody_jax.cli import train
    from melody_jax.operations.fit import check_fit

    request = train.request_in(job.command[1:], "gpu" if target == "slurm" else "tpu")
    if any(descriptions.BUCKET in file for file in request.gin_files):
        return  # read where it lies
    with contextlib.chdir(job.code):
        check_fit(request.compose(), chips, slices)
