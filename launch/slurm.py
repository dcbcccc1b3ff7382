"""SLURM: a batch script that starts one task for each GPU and puts itself into the queue again."""

import shlex
from pathlib import Path

from launch.job import Job
from launch.processes import LaunchError, Runner
from launch.restarts import BAD_ARGUMENTS
from melody_jax.errors import UserError

SUBMIT_LIMIT = 60.0


def launch(job: Job, runner: Runner) -> int:
    """Submits the script and says where its log will be. SLURM runs it, and runs it again.

    Raises:
      UserError: the description lacks something.
      LaunchError: sbatch refused it.
    """
    text = script(job, runner.folder.absolute())
    runner.need("sbatch")
    path = runner.write("job.sh", text)
    done = runner.run(["sbatch", "--parsable", str(path)], limit=SUBMIT_LIMIT, assumed="JOB")
    if done.code:
        raise LaunchError(f"{job.name} could not be submitted: {done.reason}")
    number = done.out.strip().partition(";")[0]  # JOB or JOB;CLUSTER
    runner.say(f"{job.name} is job {number}; follow it with tail -F {runner.folder / f'slurm-{number}.txt'}")
    return 0


def script(job: Job, folder: Path) -> str:
    """The batch script; `folder` (on the shared file system) takes the log and the count of failures.

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
            *exports,
            *target.setup,
            command,
            "code=$?",
            "",
            f"case $code in 0 | {BAD_ARGUMENTS}) exit $code ;; esac",
            # who cancelled the job does not want it back
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
