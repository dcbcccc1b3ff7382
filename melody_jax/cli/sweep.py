"""`melody sweep FILE`: trials of one training command with other bindings each, and what they reached."""

import argparse
import dataclasses
from pathlib import Path

from melody_jax.cli.arguments import Positive, command, folder, option, shared
from melody_jax.operations.sweep import command as trials
from melody_jax.operations.sweep import whole

OF_THE_FILE = {
    "data": "name of the data set",
    "data_dir": "where data sets lie",
    "parents_dir": "model folder whose finished stages and tokens the trials use; it is only read",
    "storage": "URL of Optuna's database, for workers on many hosts",
}


@command(
    option("file", "a gin file that binds Sweep, as configs/sweeps/lm_tiny.gin", metavar="FILE"),
    option("--sweep_dir", "everything is written here (default runs/sweeps/NAME)", type=folder, metavar="DIR"),
    shared(set="a binding of the file"),
    *(option(f"--{name}", f"{text} (default: the file's)") for name, text in OF_THE_FILE.items()),
    option("--workers", "trials beside one another (default 1)", action=Positive, default=1),
    option(
        "--launch",
        "each trial through `melody launch TARGET --config FILE` (tpu-vm, gke, slurm)",
        nargs=2,
        metavar=("TARGET", "FILE"),
    ),
    option("--dry_run", "print the trials, start none", action="store_true"),
    epilog="Started again, it goes on with what is left. Exit code 1: no trial finished.",
)
def sweep(args: argparse.Namespace) -> int:
    if args.launch:
        from launch import job

        job.check(*args.launch)
    given = {name: getattr(args, name) for name in OF_THE_FILE if getattr(args, name) is not None}
    asked = dataclasses.replace(trials.read(args.file, args.set), **given)
    name = Path(args.file).stem
    directory = Path(args.sweep_dir or f"runs/sweeps/{name}")
    return whole.carry_out(asked, name, directory, args.workers, args.launch, args.dry_run)
