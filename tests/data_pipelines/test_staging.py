import contextlib
import errno
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_pipelines import repeats, splits, staging
from data_pipelines.clip import Clip
from data_pipelines.sources import Rejection, SoundFile
from melody_jax.errors import UserError
from melody_jax.parallel.share import Share


def make_slowly(item):
    """For a child process: one clip after a while."""
    time.sleep(0.05)
    yield Clip(f"{item}", np.full(100, item / 100, np.float32), ("a",), f"{item}", "test", "")


def _works(count):
    return [staging.Work(str(number), number, "train") for number in range(count)]


def _bytes(chunks):
    return [chunk.path.read_bytes() for chunk in chunks]


def test_a_killed_build_goes_on_with_the_same_bytes(tmp_path):
    whole = staging.make_chunks(_works(60), make_slowly, tmp_path / "whole", 1, "clips")
    script = (
        f"import {__name__} as t, pathlib; "
        f"t.staging.make_chunks(t._works(60), t.make_slowly, pathlib.Path({str(tmp_path / 'cut')!r}), 1, 'clips')"
    )
    child = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    while child.poll() is None and len(list(tmp_path.glob("cut/chunk-*"))) < 10:
        time.sleep(0.02)
    child.kill()
    child.wait()
    done = list(tmp_path.glob("cut/chunk-*"))
    assert 0 < len(done) < len(whole)
    times = {path: path.stat().st_mtime_ns for path in done}
    resumed = staging.make_chunks(_works(60), make_slowly, tmp_path / "cut", 1, "clips")
    assert _bytes(resumed) == _bytes(whole)
    assert set(done) < {chunk.path for chunk in resumed}
    assert all(path.stat().st_mtime_ns == times[path] for path in done)  # not made again


def test_the_workers_of_a_killed_build_end_with_it(tmp_path):
    script = (
        f"import {__name__} as t, pathlib\n"
        f"if __name__ == '__main__':\n"
        f"    t.staging.make_chunks(t._works(10_000), t.make_slowly, pathlib.Path({str(tmp_path)!r}), 2, 'clips')"
    )
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", script], env=os.environ | path, start_new_session=True)
    try:
        while child.poll() is None and len(list(tmp_path.glob("chunk-*"))) < 4:
            time.sleep(0.02)
        child.kill()
        child.wait()
        deadline = time.monotonic() + 60
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(child.pid, 0)
                time.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def test_a_chunk_that_the_disk_lost_the_end_of_is_made_again(tmp_path):
    chunks = staging.make_chunks(_works(2), make_slowly, tmp_path, 1, "clips")
    expected = _bytes(chunks)
    chunks[0].path.write_bytes(expected[0][:-20])
    chunks[1].path.write_bytes(b"")
    assert _bytes(staging.make_chunks(_works(2), make_slowly, tmp_path, 1, "clips")) == expected


def make_badly(item):
    """Gives a clip, then fails, for odd items."""
    yield from make_slowly(item)
    if item % 2:
        raise RuntimeError("the string broke")


def make_with_half_a_character(item):
    yield Clip(f"{item}", np.zeros(100, np.float32), ("great tune \ud83c",), f"{item}", "test", "")


def test_a_failing_maker_leaves_a_rejection_and_no_clip(tmp_path):
    chunks = staging.make_chunks(_works(4), make_badly, tmp_path, 1, "clips")
    assert [clip["id"] for chunk in chunks for clip in chunk.clips()] == ["0", "2"]
    rejected = [rejection for chunk in chunks for rejection in chunk.rejections()]
    assert rejected == [Rejection(n, "RuntimeError: the string broke") for n in ("1", "3")]
    (chunk,) = staging.make_chunks(_works(1), make_with_half_a_character, tmp_path, 1, "clips")
    assert not list(chunk.clips()) and "surrogates not allowed" in chunk.rejections()[0].reason


class _FullDisk(io.FileIO):
    """A file on a disk without room."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_no_fault_of_the_music(tmp_path, monkeypatch):
    """It ends the build; when there is room again everything is there."""
    staging.make_chunks(_works(2), make_slowly, tmp_path, 1, "clips")
    with monkeypatch.context() as patch:
        patch.setattr(staging, "open", _FullDisk, raising=False)
        with pytest.raises(OSError, match="No space left on device; what is finished is kept") as refusal:
            staging.make_chunks(_works(4), make_slowly, tmp_path, 1, "clips")
    assert refusal.value.filename == str(tmp_path) and len(list(tmp_path.glob("*chunk*"))) == 2
    chunks = staging.make_chunks(_works(4), make_slowly, tmp_path, 1, "clips")
    assert [clip["id"] for chunk in chunks for clip in chunk.clips()] == ["0", "1", "2", "3"]


def make_where_allowed(item):
    if _forbidden:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    yield from make_slowly(item)


_forbidden = []


def test_what_the_machine_did_not_give_is_asked_for_again(tmp_path):
    _forbidden.append(True)
    (refused,) = staging.make_chunks(_works(1), make_where_allowed, tmp_path, 1, "clips")
    _forbidden.clear()
    (rejection,) = refused.rejections()
    assert rejection.again and "Permission denied" in rejection.reason
    (chunk,) = staging.make_chunks(_works(1), make_where_allowed, tmp_path, 1, "clips")
    assert not chunk.rejections() and len(list(chunk.clips())) == 1


def make_and_die(item):
    """Ends the worker process as the system does when memory runs out."""
    if multiprocessing.parent_process() is not None:
        os._exit(9)
    yield from ()


def make_and_die_once(item):
    """As a decoder that one file crashes."""
    yield from make_and_die(item) if item == 3 else make_slowly(item)


def test_a_dying_worker_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="a worker process died"):
        staging.make_chunks(_works(40), make_and_die, tmp_path, 2, "clips")


def test_a_file_that_kills_the_process_is_one_rejection(tmp_path):
    chunks = staging.make_chunks(_works(6), make_and_die_once, tmp_path, 2, "clips")
    assert [clip["id"] for chunk in chunks for clip in chunk.clips()] == ["0", "1", "2", "4", "5"]
    (rejection,) = chunks[3].rejections()
    assert rejection.path == "3" and "the process that reads it dies" in rejection.reason


def make_in_steps(item):
    for step in range(1, 5):
        yield staging.Progress(100 * step)
        yield Clip(f"{item}#{step}", np.zeros(10, np.float32), ("a",), f"{item}", "test", "")


def test_progress_moves_within_one_file(tmp_path):
    told = []
    chunk = staging.Chunk(tmp_path / "chunk", staging.Work("a", "a", amount=350))
    staging.write_chunk(chunk, make_in_steps, told.append)
    assert told == [100, 100, 100, 50, 0]


def make_sounds(item):
    """Clips of the sounds that a file is said to hold."""
    for number, level in enumerate(item.captions):
        yield Clip(f"{item.name}#{number}", np.full(10, float(level) / 100, np.float32), ("a",), item.name, "test", "")


def test_the_same_sound_is_used_once_and_never_split(tmp_path):
    sounds = {"a": "123", "b": "456", "copy of a": "123", "longer b": "4567", "longer still": "78", "other": "9"}
    files = [SoundFile(f"/{name}", name, tuple(levels), "folder") for name, levels in sounds.items()]
    chunks = staging.make_chunks([staging.Work(file.path, file) for file in files], make_sounds, tmp_path, 1, "clips")
    same = repeats.find(chunks)
    groups = {chunk.work.item.name: same.groups.get(chunk.path) for chunk in chunks}
    assert groups["copy of a"] is None and groups["b"] == groups["longer b"] == groups["longer still"]
    assert len(set(groups.values())) == 4  # a, b and what shares its sound, other, none
    copy, longer, still = same.rejections
    assert copy == Rejection("/copy of a", "the same sound as /a", same_as="/a") and not copy.is_fault
    assert (longer.path, longer.start) == ("/longer b", 0.0) and "3 of its clips sound as in /b" in longer.reason
    assert still.path == "/longer still"
    assert len(splits.splits_of(set(same.groups.values()))) == 3


def test_hosts_share_the_work_and_see_all_of_it(tmp_path):
    """Each makes every second chunk; after that both know what all of them hold, without opening them."""
    expected = staging.make_chunks(_works(5), make_badly, tmp_path / "alone", 1, "clips")
    made = []

    def second():
        made.append(staging.make_chunks(_works(5), make_badly, tmp_path / "pod", 1, "clips", Share(1, 2)))

    first = staging.make_chunks(_works(5), make_badly, tmp_path / "pod", 1, "clips", Share(0, 2, second))
    assert made == [first] and _bytes(first) == _bytes(expected)
    for chunk, alone in zip(first, expected, strict=True):
        clips = list(alone.clips())
        sounds = [chunk.clip(*clip["at"])["audio"] for clip in clips]
        chunk.path.unlink()
        assert list(chunk.clips()) == clips and chunk.rejections() == alone.rejections()
        assert all(np.ptp(sound) == 0 and sound.shape == (100,) for sound in sounds)


def test_hosts_that_see_other_music_are_refused(tmp_path):
    def second():
        staging.make_chunks(_works(5), make_slowly, tmp_path, 1, "clips", Share(1, 2))

    with pytest.raises(UserError, match="do not see the same music"):
        staging.make_chunks(_works(4), make_slowly, tmp_path, 1, "clips", Share(0, 2, second))
