"""Training in processes of its own, which tests kill."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from melody_jax.files import read_lines


def start(module: str, *arguments: object, **environment: str) -> subprocess.Popen:
    """`python -m module arguments` with one CPU device and no compiled programs from elsewhere."""
    plain = {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": "", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=os.environ | plain | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and stderr of a process, once it has ended."""
    _, errors = process.communicate(timeout=600)
    return process.returncode, errors


def wait_until(process: subprocess.Popen, reached: Callable[[], bool]) -> None:
    """Until the living process has reached something."""
    deadline = time.monotonic() + 600
    while not reached():
        if process.poll() is not None:
            raise AssertionError(f"ended before: {finish(process)}")
        assert time.monotonic() < deadline
        time.sleep(0.02)


def complete(checkpoint: Path) -> bool:
    """Whether all of a checkpoint is written: this file is the last."""
    return (checkpoint / "commit_success.txt").exists()


def logged(folder: Path, step: int) -> bool:
    """Whether the run in `folder` has logged this step."""
    return any(record["step"] >= step for record in read_lines(folder / "metrics.jsonl"))
