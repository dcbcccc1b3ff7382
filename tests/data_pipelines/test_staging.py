import multiprocessing
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from data_pipelines import staging
from data_pipelines.clip import Clip
from data_pipelines.sources import Rejection
from melody_jax.errors import UserError


def make_slowly(item):
    """For a child process: one clip after a while."""
    time.sleep(0.05)
    yield Clip(f"{item}", np.full(100, item / 100, np.float32), ("a",), f"{item}", "test", "")


def _works(count):
    return [staging.Work(str(number), "train", number) for number in range(count)]


def test_a_killed_build_goes_on_with_the_same_bytes(tmp_path):
    whole = staging.stage(_works(60), make_slowly, tmp_path / "whole", 1, "clips")
    script = (
        f"import {__name__} as t, pathlib; "
        f"t.staging.stage(t._works(60), t.make_slowly, pathlib.Path({str(tmp_path / 'cut')!r}), 1, 'clips')"
    )
    child = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    while child.poll() is None and not list(tmp_path.glob("cut/chunk-000001*")):
        time.sleep(0.02)
    child.kill()
    child.wait()
    done = list(tmp_path.glob("cut/chunk-*"))
    assert 0 < len(done) < len(whole.chunks)
    times = {path: path.stat().st_mtime_ns for path in done}
    resumed = staging.stage(_works(60), make_slowly, tmp_path / "cut", 1, "clips")
    assert resumed.content_hash() == whole.content_hash()
    assert set(done) < set(resumed.chunks)
    assert all(path.stat().st_mtime_ns == times[path] for path in done)  # not made again


def make_badly(item):
    """Gives a clip, then fails, for odd items."""
    yield from make_slowly(item)
    if item % 2:
        raise RuntimeError("the string broke")


def test_a_failing_maker_leaves_a_rejection_and_no_clip(tmp_path):
    staged = staging.stage(_works(4), make_badly, tmp_path, 1, "clips")
    assert [example["id"] for example in staged.examples()] == ["0", "2"]
    assert staged.rejections() == [Rejection(n, "RuntimeError: the string broke") for n in ("1", "3")]


def make_and_die(item):
    """Ends the worker process as the system does when memory runs out."""
    if multiprocessing.parent_process() is not None:
        os._exit(9)
    yield from ()


def test_a_dying_worker_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="a worker process died"):
        staging.stage(_works(40), make_and_die, tmp_path, 2, "clips")
