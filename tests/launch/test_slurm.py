"""The batch script, run by bash with stand-ins for SLURM's commands, and its submission."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from launch import slurm
from tests.launch.conftest import JOB

WAITING = JOB["slurm"] | {"wait": True}


@pytest.fixture
def run(cloud):
    """Submits, then runs the script as SLURM would; returns (exit code, output, calls of scontrol and sleep)."""

    def start(srun, state="RUNNING", **changes):
        assert cloud.launch("slurm", **changes) == 0
        calls = cloud.folder / "calls"
        calls.write_text("")
        for name, body in {
            "srun": srun,
            "squeue": f"echo {state}",
            "scontrol": f'echo "scontrol $*" >> {calls}',
            "sleep": f'echo "sleep $*" >> {calls}',
        }.items():
            (cloud.bin / name).write_text(f"#!/bin/bash\n{body}\n")
            (cloud.bin / name).chmod(0o755)
        done = subprocess.run(
            ["bash", "runs/launch/test-run/job.sh"],
            env=os.environ | {"SLURM_JOB_ID": "17"},
            capture_output=True,
            text=True,
        )
        assert not done.stderr, done.stderr
        return done.returncode, done.stdout, calls.read_text().splitlines()

    return start


def test_submission(cloud, capsys):
    assert cloud.launch("slurm") == 0
    assert cloud.calls()[0]["argv"] == ["sbatch", "--parsable", "runs/launch/test-run/job.sh"]
    assert "is job 17; follow it with tail -F runs/launch/test-run/slurm-17.txt" in capsys.readouterr().out
    options = [line for line in Path("runs/launch/test-run/job.sh").read_text().splitlines() if "#SBATCH" in line]
    expected = {"nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "time=1440", "signal=TERM@120", "requeue"}
    assert {f"#SBATCH --{option}" for option in expected} <= set(options)
    assert not any("partition" in line for line in options)


def test_what_the_tasks_run(run):
    code, said, calls = run('printf "%s|" "$A" "$B" "$@" "$SRUN_CPUS_PER_TASK"')
    assert code == 0 and calls == []
    words = ["two words", "$HOME", "melody", "train", "lm", "--size", "paper", "--data_dir", "/shared files/data"]
    assert said.split("|")[:9] == words and said.split("|")[-2] == "8"  # which srun does not take from sbatch


def test_a_checkpointed_stop_goes_into_the_queue_at_once(run):
    assert run("exit 143")[2] == ["scontrol requeue 17"]


def test_the_script_outlives_the_signal_that_its_tasks_get(run):
    assert run("kill -TERM $PPID; exit 143")[2] == ["scontrol requeue 17"]


def test_failures_wait_longer_and_longer_and_end(run):
    backoff = {"first": 30, "ceiling": 100}
    seen = [run("exit 1", backoff=backoff) for _ in range(4)]
    assert [calls for _, _, calls in seen[:3]] == [
        [f"sleep {seconds}", "scontrol requeue 17"] for seconds in (30, 60, 100)
    ]
    assert seen[3][0] == 1 and seen[3][2] == []


def test_a_long_run_starts_the_count_anew(run):
    for _ in range(5):
        assert run("exit 1", backoff={"first": 1, "reset": 0})[2] == ["sleep 1", "scontrol requeue 17"]


@pytest.mark.parametrize(
    ("srun", "state"), [*((f"exit {code}", "RUNNING") for code in (0, 2, 4)), ("exit 143", "COMPLETING")]
)
def test_not_requeued(srun, state, run):
    code, _, calls = run(srun, state)
    assert calls == [] and code == int(srun.split()[1])


def test_setup_runs_first(run):
    assert run(
        'echo "$READY"', slurm={"nodes": 1, "gpus_per_node": 1, "shared_dir": "/s", "setup": ["export READY=yes"]}
    )[1].startswith("yes")


def test_a_refused_script(cloud, capsys):
    cloud.answer(sbatch=[{"code": 1, "err": "sbatch: error: invalid partition\n"}])
    assert cloud.launch("slurm") == 1
    assert "could not be submitted: sbatch: error: invalid partition" in capsys.readouterr().err
    assert cloud.launch("slurm", slurm=None) == 2
    assert "`slurm`" in capsys.readouterr().err


def done(number=17):
    """What the script leaves behind when its command has ended with 0."""
    path = Path(f"runs/launch/test-run/done-{number}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def one_line(capsys):
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error
    return error


def test_the_end_is_waited_for(cloud, capsys):
    done()
    cloud.answer(sbatch=[{"out": "sbatch: info: of a plugin\n17;cluster"}])
    assert cloud.launch("slurm", slurm=WAITING) == 0
    assert cloud.calls()[0]["argv"] == ["sbatch", "--parsable", "--wait", "runs/launch/test-run/job.sh"]
    assert "is job 17; follow it with tail -F runs/launch/test-run/slurm-17.txt" in capsys.readouterr().out
    assert cloud.launch("slurm", "--dry_run", slurm=WAITING) == 0
    assert capsys.readouterr().out.endswith("\nsbatch --parsable --wait runs/launch/test-run/job.sh\n")


@pytest.mark.parametrize("code", [1, 2, 143])
def test_a_job_that_fails_while_it_is_waited_for(code, cloud, capsys):
    cloud.answer(sbatch=[{"out": "17", "code": code}])
    assert cloud.launch("slurm", slurm=WAITING) == code
    assert one_line(capsys).endswith(f"ended with exit code {code}; see runs/launch/test-run/slurm-17.txt")


def test_a_job_that_is_cancelled_in_the_queue_is_no_success(cloud, capsys):
    done(number=16)
    assert cloud.launch("slurm", slurm=WAITING) == 1
    assert "job 17, left the queue before it was done" in one_line(capsys)


def test_only_success_leaves_its_mark(run):
    mark = Path("runs/launch/test-run/done-17")
    for code in (1, 2, 143):
        run(f"exit {code}")
        assert not mark.exists()
    run("exit 0")
    assert mark.exists()


def test_a_script_that_is_refused_or_not_answered_while_waiting(cloud, capsys, monkeypatch):
    cloud.answer(sbatch=[{"code": 1, "err": "sbatch: error: invalid partition\n"}])
    assert cloud.launch("slurm", slurm=WAITING) == 1
    assert "could not be submitted: sbatch: error: invalid partition" in one_line(capsys)
    monkeypatch.setattr(slurm, "SUBMIT_LIMIT", 0.2)
    cloud.answer(sbatch=[{"hang": True}])
    assert cloud.launch("slurm", slurm=WAITING) == 1
    assert "could not be submitted: no answer in time" in one_line(capsys)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_job_that_is_waited_for(number, cloud):
    cloud.answer(sbatch=[{"out": "17", "hang": True}], squeue=[{"out": "17 gpu"}, {"out": ""}])
    code, error = cloud.interrupted(number, "slurm", slurm=WAITING)
    assert code == 128 + number
    assert error.strip() == f"error: stopped by {number.name}"
    assert cloud.kinds() == ["sbatch", "scancel", "squeue", "squeue"]
    assert cloud.calls()[1]["argv"] == ["scancel", "17"]


def test_a_job_that_cannot_be_cancelled_is_named(cloud, capsys, monkeypatch):
    def interrupted(runner, argv, line, **_):
        line("17\n")
        raise slurm.InterruptError("stopped by SIGTERM", 143)

    monkeypatch.setattr(slurm.Runner, "follow", interrupted)
    cloud.answer(scancel=[{"code": 1, "err": "scancel: error: no controller"}])
    assert cloud.launch("slurm", slurm=WAITING) == 143
    shown = capsys.readouterr().out
    assert "it may go on, scancel 17 ends it: scancel: error: no controller" in shown
    assert cloud.kinds() == ["scancel"]
