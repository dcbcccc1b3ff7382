"""`melody launch TARGET`: a training run on TPU VMs, GKE or SLURM."""

import argparse
import importlib
import sys
from pathlib import Path

TARGETS = {"tpu-vm": "tpu_vm", "gke": "gke", "slurm": "slurm"}
"""Target -> module of the package `launch`."""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("launch", help="run a command on TPU VMs, GKE or SLURM")
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
      UserError: bad description, or the target's command-line tool is missing.
    """
    from launch import job as descriptions
    from launch.processes import LaunchError, Runner

    job = descriptions.read(args.config)
    with Runner(Path(args.out) / job.name, args.dry_run) as runner:
        try:
            return importlib.import_module(f"launch.{TARGETS[args.target]}").launch(job, runner)
        except LaunchError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
