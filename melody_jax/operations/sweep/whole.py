"""A sweep from its file to its table: what `melody sweep` does."""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from melody_jax.operations.sweep import command, report
from melody_jax.operations.sweep.config import Sweep
from melody_jax.operations.sweep.listed import ListedTrials
from melody_jax.operations.sweep.run import run as run_trials
from melody_jax.operations.sweep.study import StudyTrials
from melody_jax.operations.sweep.trial import Trial


def carry_out(
    sweep: Sweep, name: str, directory: Path, workers: int, launch: Sequence[str] | None, dry_run: bool
) -> int:
    """Runs the trials that are left, prints the table, and writes results.csv and results.png.

    Args:
      name: of the study in Optuna's database.
      directory: the sweep's folder.
      workers: how many trials run at a time.
      launch: (target, file) of `melody launch`, through which each trial runs; None for processes of this machine.
      dry_run: print the trials and start none.

    Returns:
      The exit code: 0 if a trial has finished, 1 if none has, 130 or 143 if a signal stopped the sweep.

    Raises:
      UserError: a trial whose configuration cannot be made, or parents, data or tokens that are missing.
    """
    jax.config.update("jax_platforms", "cpu")  # accelerators are the trials'
    proposals = [] if sweep.kind == "optuna" else sweep.proposals()
    command.try_out(sweep, proposals)
    if dry_run:
        print(*command.plan(sweep, proposals, directory), sep="\n")
        return 0
    command.check_inputs(sweep)
    sweep.keep_record(directory)
    trials = StudyTrials(directory, name, sweep) if sweep.kind == "optuna" else ListedTrials(directory, proposals)

    def ended(trial: Trial) -> None:
        reached = "" if trial.value is None else f", {sweep.metric} {trial.value:.5g}"
        print(f"trial {trial.number} {trial.key}: {trial.state}{reached}, {trial.seconds:.0f} s", flush=True)
        report.write_csv(sweep, trials.all(), directory)

    stopped = run_trials(sweep, trials, directory, command.starter(sweep, launch), workers, ended)
    made = trials.all()
    print(report.table(sweep, made))
    written = [report.write_csv(sweep, made, directory), report.plot(sweep, made, directory)]
    print("written:", *filter(None, written))
    if stopped:
        print(f"error: sweep: stopped by a signal; the same command goes on in {directory}", file=sys.stderr)
        return 128 + stopped
    return 0 if any(trial.state == "finished" for trial in made) else 1
