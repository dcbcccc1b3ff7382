"""SLURM: a batch script that starts one task for each GPU and puts itself into the queue again."""

import re
import shlex
import time
from pathlib import Path

from launch.job import Job
from launch.processes import InterruptError, LaunchError, Result, Runner
from launch.restarts import FINAL
from melody_jax.errors import UserError

SUBMIT_LIMIT = 60.0
QUERY_LIMIT = 60.0
POLL = 2.0
NUMBER = re.compile(r"(\d+)(;\S+)?$")  # JOB or JOB;CLUSTER


def launch(job: Job, runner: Runner) -> int:
    """Submits the script and says where its log will be. SLURM runs it, and runs it again.

    With `slurm.wait` stays until the job has ended for good, and cancels it when a signal ends the waiting.

    Raises:
      UserError: the description lacks something.
      LaunchError: sbatch refused it, or the awaited job failed; InterruptError after a signal.
    """
    text = script(job, runner.folder.absolute())
    runner.need("sbatch")
    path = runner.write("job.sh", text)
    if job.slurm and job.slurm.wait:
        return _wait(job, path, runner)
    done = runner.run(["sbatch", "--parsable", str(path)], limit=SUBMIT_LIMIT, assumed="JOB")
    if done.code:
        raise LaunchError(f"{job.name} could not be submitted: {done.reason}")
    _say(job, done.out.strip().partition(";")[0], runner)
    return 0


def _say(job: Job, number: str, runner: Runner) -> None:
    runner.say(f"{job.name} is job {number}; follow it with tail -F {_log(number, runner)}")


def _log(number: str, runner: Runner) -> Path:
    return runner.folder / f"slurm-{number}.txt"


def _wait(job: Job, path: Path, runner: Runner) -> int:
    """Submits, and stays to the end; a job that puts itself into the queue again keeps its number, and has not ended."""
    said, number = [], "JOB" if runner.dry_run else ""

    def read(line: str) -> None:
        nonlocal number
        said.append(line)
        if not number and (found := NUMBER.match(line.strip())):
            number = found[1]
            _say(job, number, runner)
            runner.finishing = False

    runner.finishing = True  # a signal waits for the number by which it cancels the job
    try:
        argv = ["sbatch", "--parsable", "--wait", str(path)]
        code = runner.follow(argv, line=read, lost=lambda: not number, every=SUBMIT_LIMIT)
    except InterruptError:
        runner.finishing = True
        _cancel(job, number, runner)
        raise
    if not number:
        raise LaunchError(f"{job.name} could not be submitted: {Result(code, ''.join(said)).reason}")
    if code:
        raise LaunchError(f"{job.name} ended with exit code {code}; see {_log(number, runner)}", code)
    # sbatch also says 0 of a job that was cancelled in the queue, or that SLURM has forgotten
    if not runner.dry_run and not (runner.folder / f"done-{number}").exists():
        raise LaunchError(f"{job.name}, job {number}, left the queue before it was done")
    return 0


def _cancel(job: Job, number: str, runner: Runner) -> None:
    """Cancels the job and gives its tasks time to save."""
    runner.say(f"cancelling job {number}")
    done = runner.run(["scancel", number], limit=QUERY_LIMIT)
    if done.code:
        runner.say(f"it may go on, scancel {number} ends it: {done.reason}")
        return
    end = time.monotonic() + job.grace_seconds
    listed = ["squeue", "--noheader", f"--jobs={number}"]
    while runner.run(listed, limit=QUERY_LIMIT).out.strip() and time.monotonic() < end:
        runner.pause(POLL)


def script(job: Job, folder: Path) -> str:
    """The batch script; `folder` (on the shared file system) takes the log, the count of failures and a mark of success.

    Raises:
      UserError: the description lacks something.
    """
    target = job.slurm
    if target is None:
        raise UserError("melody launch slurm needs the key `slurm`")
    options = {
        "job-name": job.name,
        "nodes": target.nodes,
        "ntasks-per-node": target.gpus_per_node,
        "gpus-per-node": target.gpus_per_node,
        "cpus-per-task": target.cpus_per_task,
        "time": max(1, round(60 * target.hours)),  # minutes
        "partition": target.partition,
        "account": target.account,
        "chdir": Path(job.code).absolute(),
        "output": folder / "slurm-%j.txt",
        "open-mode": "append",
        "signal": f"TERM@{job.grace_seconds}",
    }
    lines = [f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in options.items() if value != ""]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in job.env.items()]
    command = shlex.join(["srun", *job.words(target.shared_dir)])
    backoff = job.backoff
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            "#SBATCH --requeue",
            "",
            "trap : TERM  # wait for the tasks, which save a checkpoint and exit with 143",
            # of sbatch's options srun takes all but this one
            f"export SRUN_CPUS_PER_TASK={target.cpus_per_task}",
            *exports,
            *target.setup,
            command,
            "code=$?",
            "",
            f'[ $code -ne 0 ] || touch {shlex.quote(str(folder))}/done-"$SLURM_JOB_ID"',
            f"case $code in {' | '.join(map(str, FINAL))}) exit $code ;; esac",
            # a job that was cancelled is not started again
            '[ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ] || exit $code',
            f'count={shlex.quote(str(folder))}/failures-"$SLURM_JOB_ID"',
            'failures=$(cat "$count" 2> /dev/null || echo 0)',
            f"[ $SECONDS -lt {backoff.reset:.0f} ] || failures=0",
            f"[ $failures -lt {job.restarts} ] || exit $code",
            'echo $((failures + 1)) > "$count"',
            # after a signal the time may be short, and the queue is pause enough
            "if [ $code -lt 128 ]; then",
            f"  pause=$(({backoff.first:.0f} << (failures < 30 ? failures : 30)))",
            f"  sleep $((pause < {backoff.ceiling:.0f} ? pause : {backoff.ceiling:.0f}))",
            "fi",
            'echo "melody launch: exit code $code; restart $((failures + 1)) of ' + f'{job.restarts}"',
            'scontrol requeue "$SLURM_JOB_ID"',
            "",
        ]
    )
