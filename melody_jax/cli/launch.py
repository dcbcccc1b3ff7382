"""`melody launch TARGET`: a training run on TPU VMs, GKE or SLURM."""

import argparse
import contextlib
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import melody_jax
from melody_jax.errors import UserError

if TYPE_CHECKING:
    from launch.job import Job

TARGETS = {"tpu-vm": "tpu_vm", "gke": "gke", "slurm": "slurm"}
"""Target -> module of the package `launch`."""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("launch")
    parser.set_defaults(run=run)
    parser.add_argument("target", choices=TARGETS, help="where")
    parser.add_argument("--config", required=True, metavar="FILE", help="the description, as in configs/launch")
    parser.add_argument("--dry_run", action="store_true", help="print what would be executed, and do nothing")
    parser.add_argument(
        "--out", default="runs/launch", metavar="DIR", help="logs and scripts go to DIR/NAME (default runs/launch)"
    )


def run(args: argparse.Namespace) -> int:
    """Launches, follows, and returns the exit code of what ran.

    Raises:
      UserError: bad description, a training that its chips could not run, or the target's command-line tool is missing.
    """
    from launch import job as descriptions
    from launch.processes import LaunchError, Runner

    job = descriptions.read(args.config)
    _check_training(job, args.target)
    with Runner(Path(args.out) / job.name, args.dry_run) as runner:
        try:
            return importlib.import_module(f"launch.{TARGETS[args.target]}").launch(job, runner)
        except LaunchError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code


def _check_training(job: "Job", target: str) -> None:
    """Composes a training of this very code as every worker will, and lays it over the chips that are asked for.

    Raises:
      UserError: arguments or bindings that nobody reads, or a batch or parameters that do not divide over the mesh.
    """
    ours = Path(melody_jax.__file__).parents[1].resolve() == Path(job.code).resolve()
    chips, slices = _chips(job, target)
    if not ours or not chips or job.command[:2] != ("melody", "train"):
        return
    from jax.sharding import AbstractMesh

    from launch import job as descriptions
    from melody_jax import graph
    from melody_jax.cli import train
    from melody_jax.cli.main import Parser
    from melody_jax.parallel import batch, init, mesh

    parser = Parser(prog="melody")
    train.add_parser(parser.add_subparsers(dest="command"))
    args, args.unknown = parser.parse_known_args(job.command[1:])
    if any(descriptions.BUCKET in file for file in args.gin_file):
        return  # read where it lies
    if args.hardware == "auto":
        args.hardware = "gpu" if target == "slurm" else "tpu"
    with contextlib.chdir(job.code):
        configs = train.request_of(args).compose()
    for name, config in configs.items():
        spec = config.run.mesh
        sizes = mesh.parse_mesh(spec, chips)
        mesh.axis_between_slices(spec, sizes, slices)
        grid = AbstractMesh(tuple(sizes.values()), tuple(sizes))
        try:
            batch.check_batch_size(config.stage.batch_size, grid)
            if name in graph.NETWORKS:  # those of the codes have the shapes of their parents, which are not here
                init.abstract_state(config.stage.init, grid)
        except UserError as error:
            raise UserError(f"{name} on {chips} chips: {error}") from None


def _chips(job: "Job", target: str) -> tuple[int, int]:
    """(chips of all slices, slices) of what the target takes of the description; no chips where it lacks the target."""
    if target == "slurm":
        return (job.slurm.nodes * job.slurm.gpus_per_node, 1) if job.slurm else (0, 1)
    return (job.slices * job.tpu.devices, job.slices) if job.accelerator else (0, 1)
