"""`melody sweep FILE`: trials of one training command with other bindings each, and what they reached."""

import argparse
import dataclasses
from pathlib import Path

from melody_jax.cli import arguments
from melody_jax.operations.sweep import command, whole

EPILOG = "Started again, it goes on with what is left. Exit code 1: no trial finished."
OF_THE_FILE = {
    "data": "name of the data set",
    "data_dir": "where data sets lie",
    "parents_dir": "model folder whose finished stages and tokens the trials use; it is only read",
    "storage": "URL of Optuna's database, for workers on many hosts",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a gin file that binds Sweep, as configs/sweeps/lm_tiny.gin")
    text = "everything is written here (default runs/sweeps/NAME)"
    parser.add_argument("--sweep_dir", type=arguments.folder, metavar="DIR", help=text)
    arguments.add(parser, set="a binding of the file")
    for name, text in OF_THE_FILE.items():
        parser.add_argument(f"--{name}", help=f"{text} (default: the file's)")
    parser.add_argument("--workers", action=arguments.Positive, default=1, help="trials beside one another (default 1)")
    text = "each trial through `melody launch TARGET --config FILE` (tpu-vm, gke, slurm)"
    parser.add_argument("--launch", nargs=2, metavar=("TARGET", "FILE"), help=text)
    parser.add_argument("--dry_run", action="store_true", help="print the trials, start none")


def run(args: argparse.Namespace) -> int:
    if args.launch:
        from launch import job

        job.check(*args.launch)
    given = {name: getattr(args, name) for name in OF_THE_FILE if getattr(args, name) is not None}
    sweep = dataclasses.replace(command.read(args.file, args.set), **given)
    name = Path(args.file).stem
    directory = Path(args.sweep_dir or f"runs/sweeps/{name}")
    return whole.carry_out(sweep, name, directory, args.workers, args.launch, args.dry_run)
