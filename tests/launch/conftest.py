"""Stand-ins for gcloud, kubectl and sbatch, first on PATH: they record how they were called and answer as told."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from launch import gke, processes, slurm, tpu_vm
from melody_jax.cli.main import main

# Literals instead of JSON, and few imports: a hundred of these start in a test run.
STAND_IN = """#!{python} -IS
import os, sys

home, program = os.path.split(sys.argv[0])
argv = sys.argv[1:]
if program == "gcloud":
    kind = argv[3]
    if kind == "ssh":
        text = next(word for word in argv if word.startswith("--command="))
        kind = "run" if "ended with exit code" in text else "setup" if "tar -xzf" in text else "end"
else:
    kind = next((word for word in argv if word in ("apply", "logs", "get", "delete")), program)
    looked = os.path.exists(home + "/calls") and "'apply'" in open(home + "/calls").read()
    kind = "look" if kind == "get" and not looked else kind
call = dict(kind=kind, pid=os.getpid(), argv=[program, *argv], stdin=sys.stdin.read() if kind == "apply" else "")
with open(home + "/calls", "a+") as calls:
    calls.seek(0)
    before = [eval(line)["kind"] for line in calls]
    print(repr(call), file=calls)
answers = eval(open(home + "/answers").read()).get(kind)
if answers is None:
    ready = "ACTIVE" if "queued-resources" in argv else "READY"
    answers = [dict(out=dict(describe=ready, get="Completed", sbatch="17").get(kind, ""))]
answer = answers[min(before.count(kind), len(answers) - 1)]
print(answer.get("out", ""), flush=True)
print(answer.get("err", ""), end="", file=sys.stderr, flush=True)
if answer.get("hang"):
    if os.fork() == 0:
        with open(home + "/child", "w") as file:
            file.write(str(os.getpid()))
    import time

    time.sleep(60)
if answer.get("signal"):
    os.kill(os.getpid(), answer["signal"])
sys.exit(answer.get("code", 0))
"""

JOB = {
    "name": "test-run",
    "command": "melody train lm --size paper --data_dir {bucket}/data --set 'a.b = \"it is\"'",
    "accelerator": "v5litepod-16",
    "bucket": "gs://music",
    "env": {"A": "two words", "B": "$HOME"},
    "restarts": 3,
    "backoff": {"first": 0.01, "ceiling": 0.03},
    "tpu_vm": {"project": "p", "zone": "z", "runtime_version": "v2"},
    "gke": {"image": "repository/image:1"},
    "slurm": {"nodes": 2, "gpus_per_node": 4, "shared_dir": "/shared files"},
}


class Cloud:
    """The stand-ins' folder, and how to launch against it."""

    def __init__(self, folder: Path):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        for program in ("gcloud", "kubectl", "sbatch", "scancel", "squeue"):
            (self.bin / program).write_text(STAND_IN.format(python=sys.executable))
            (self.bin / program).chmod(0o755)
        self.answer()

    def answer(self, **answers: list[dict]) -> None:
        """Kind of call -> its answers in order; the last one repeats."""
        (self.bin / "answers").write_text(repr(answers))

    def calls(self) -> list[dict]:
        file = self.bin / "calls"
        return [ast.literal_eval(line) for line in file.read_text().splitlines()] if file.exists() else []

    def kinds(self) -> list[str]:
        return [call["kind"] for call in self.calls()]

    def forget(self) -> None:
        (self.bin / "calls").unlink()

    def config(self, **changes) -> str:
        path = self.folder / "job.yaml"
        path.write_text(yaml.safe_dump(JOB | {"code": str(Path(__file__).parent)} | changes))
        return str(path)

    def launch(self, target: str, *options: str, **changes) -> int:
        return main(["launch", target, "--config", self.config(**changes), *options])

    def interrupted(self, number: signal.Signals, target: str, **changes) -> tuple[int, str]:
        """(exit code, stderr) of a launcher of its own that gets this signal once a command hangs."""
        command = [sys.executable, "-m", "melody_jax.cli.main", "launch", target, "--config", self.config(**changes)]
        root = str(Path(__file__).parents[2])
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root})
        try:
            deadline = time.monotonic() + 30
            while not (self.bin / "child").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(number)
            error = process.communicate(timeout=30)[1]
        finally:
            process.kill()
        return process.returncode, error


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    made = Cloud(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tpu_vm, "POLL", 0.0)
    monkeypatch.setattr(tpu_vm, "DELETE_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(gke, "POLL", 0.0)
    monkeypatch.setattr(slurm, "POLL", 0.0)
    monkeypatch.setattr(processes, "TICK", 0.02)
    return made
