"""`melody sweep FILE`: trials of one training command with other bindings each, and what they reached."""

import argparse
import dataclasses
import sys
from pathlib import Path

import jax

from melody_jax.cli.arguments import check_positive, folder
from melody_jax.cli.launch import TARGETS
from melody_jax.errors import UserError
from melody_jax.operations.sweep import command as commands
from melody_jax.operations.sweep import report
from melody_jax.operations.sweep.listed import ListedTrials
from melody_jax.operations.sweep.run import run as run_trials
from melody_jax.operations.sweep.study import StudyTrials
from melody_jax.operations.sweep.trial import Trial

EPILOG = "Started again, it goes on with what is left. Exit code 1: no trial finished."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a gin file that binds Sweep, as configs/sweeps/lm_tiny.gin")
    parser.add_argument(
        "--sweep_dir", type=folder, metavar="DIR", help="everything is written here (default runs/sweeps/NAME)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="BINDING=VALUE", help="a binding of the file")
    for name, text_ in {
        "data": "name of the data set",
        "data_dir": "where data sets lie",
        "parents_dir": "model folder whose finished stages and tokens the trials use; it is only read",
        "storage": "URL of Optuna's database, for workers on many hosts",
    }.items():
        parser.add_argument(f"--{name}", help=f"{text_} (default: the file's)")
    parser.add_argument("--workers", type=int, default=1, help="trials beside one another (default 1)")
    parser.add_argument(
        "--launch",
        nargs=2,
        metavar=("TARGET", "FILE"),
        help="each trial through `melody launch TARGET --config FILE` (tpu-vm, gke, slurm)",
    )
    parser.add_argument("--dry_run", action="store_true", help="print the trials, start none")


def run(args: argparse.Namespace) -> int:
    """Runs the trials that are left, prints the table, and writes results.csv and results.png.

    Returns:
      0 if a trial has finished, 1 if none has, 130 or 143 if a signal stopped the sweep."""
    check_positive(args, "workers")
    if args.launch:
        _check_launch(*args.launch)
    jax.config.update("jax_platforms", "cpu")  # accelerators are the trials'
    sweep = commands.read(args.file, args.set)
    given = {name: getattr(args, name) for name in ("data", "data_dir", "parents_dir", "storage")}
    sweep = dataclasses.replace(sweep, **{name: value for name, value in given.items() if value is not None})
    name = Path(args.file).stem
    directory = Path(args.sweep_dir or f"runs/sweeps/{name}")
    proposals = [] if sweep.kind == "optuna" else sweep.proposals()
    commands.try_out(sweep, proposals)
    if args.dry_run:
        print(*commands.plan(sweep, proposals, directory), sep="\n")
        return 0
    commands.check_inputs(sweep)
    sweep.keep_record(directory)
    trials = StudyTrials(directory, name, sweep) if sweep.kind == "optuna" else ListedTrials(directory, proposals)

    def ended(trial: Trial) -> None:
        reached = "" if trial.value is None else f", {sweep.metric} {trial.value:.5g}"
        print(f"trial {trial.number} {trial.key}: {trial.state}{reached}, {trial.seconds:.0f} s", flush=True)
        report.write_csv(sweep, trials.all(), directory)

    stopped = run_trials(sweep, trials, directory, commands.starter(sweep, args.launch), args.workers, ended)
    made = trials.all()
    print(report.table(sweep, made))
    written = [report.write_csv(sweep, made, directory), report.plot(sweep, made, directory)]
    print("written:", *filter(None, written))
    if stopped:
        print(f"error: sweep: stopped by a signal; the same command goes on in {directory}", file=sys.stderr)
        return 128 + stopped
    return 0 if any(trial.state == "finished" for trial in made) else 1


def _check_launch(target: str, file: str) -> None:
    """Raises UserError where trials cannot be run by this target, or the description is wrong."""
    from launch import job

    if target not in TARGETS:
        raise UserError(f"--launch: {target!r} is none of {', '.join(TARGETS)}")
    if getattr(job.read(file), TARGETS[target]) is None:
        raise UserError(f"--launch {target}: the key `{TARGETS[target]}` is missing in {file}")
