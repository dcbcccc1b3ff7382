"""Paths of buckets, against a Cloud Storage on loopback: whole files and folders, lines, locks, many reads at a time."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from http import HTTPStatus

import numpy as np
import pytest

from melody_jax import files, lock, storage
from melody_jax.bundle import load_part, save_part
from melody_jax.cli.main import main
from melody_jax.errors import BAD_ARGUMENTS, STOPPED, UserError, exit_code_of
from melody_jax.geometry import Geometry


def bucket_names(gcs, below):
    return {name.removeprefix(f"{below}/"): kept.data for name, kept in gcs.objects.items() if name.startswith(below)}


def test_an_address_of_another_kind_is_no_path(tmp_path, monkeypatch):
    assert storage.path(str(tmp_path)) == tmp_path and isinstance(storage.path("a/b"), pathlib.Path)
    for text in ("s3://bucket/x", "http://host/x", "gs://", "gs:///x"):
        with pytest.raises(UserError, match="gs://BUCKET/"):
            storage.path(text)
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'melody_jax\[gcs\]'"):
        storage.path("gs://bucket/x")
    with pytest.raises(UserError, match="the folder of sweeps must be one of this machine"):
        storage.local("gs://bucket/x", "the folder of sweeps")


def test_files_are_written_read_listed_and_removed(gcs_folder):
    a = files.write_whole(gcs_folder / "a.txt", "ü")
    (gcs_folder / "in" / "deep").mkdir(parents=True)
    with files.whole_file(gcs_folder / "in" / "deep" / "b.bin") as scratch:
        scratch.write_bytes(b"123")
    assert storage.path(os.fspath(a)) == a and a.read_text() == "ü" and a.is_file() and gcs_folder.is_dir()
    assert storage.files_below(gcs_folder) == {"a.txt": 2, "in/deep/b.bin": 3}
    with storage.fetched(gcs_folder / "in" / "deep" / "b.bin") as copy:
        assert copy.read_bytes() == b"123"
    storage.remove_folder(gcs_folder / "in")
    assert storage.files_below(gcs_folder) == {"a.txt": 2} and not (gcs_folder / "in").exists()
    storage.remove_folder(gcs_folder / "nothing")
    assert not pathlib.Path("gs:").exists()


def test_lines_of_a_killed_process_are_there_but_for_the_last_minute(gcs_folder, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(files.time, "monotonic", lambda: clock[0])
    path = files.write_whole(gcs_folder / "x.jsonl", files.json_lines([{"second": -1}]))
    lines = files.Appended(path)
    for second in (1, 59, 61, 100):
        clock[0] = float(second)
        lines.write({"second": second})
    assert [line["second"] for line in files.read_lines(path)] == [-1, 1, 59, 61]
    lines.close()
    assert [line["second"] for line in files.read_lines(path)] == [-1, 1, 59, 61, 100]


def test_a_folder_takes_the_place_of_another_its_commit_file_last(gcs, gcs_folder):
    for content in ({"commit": "1", "gone": "old", "before/deep": "old"}, {"commit": "2", "inner/deep": "new"}):
        gcs.log.clear()
        with files.whole_folder(gcs_folder / "place", "commit") as scratch:
            for name, text in content.items():
                (scratch / name).parent.mkdir(exist_ok=True)
                (scratch / name).write_text(text)
        assert bucket_names(gcs, "test/place") == {name: text.encode() for name, text in content.items()}
        assert not scratch.exists()


def test_a_kill_in_between_leaves_nothing_that_counts_as_whole(gcs, gcs_folder, monkeypatch):
    with files.whole_folder(gcs_folder / "place", "commit") as scratch:
        for name in ("commit", "a"):
            (scratch / name).write_text("old")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(storage, "upload", killed)
        with files.whole_folder(gcs_folder / "place", "commit") as scratch:
            (scratch / "commit").write_text("new")
    assert set(bucket_names(gcs, "test/place")) == {"a", files.UNFINISHED} and not scratch.exists()


def test_a_part_is_written_and_read(gcs, gcs_folder):
    saved = save_part(gcs_folder / "part", "lm", {"w": np.arange(6.0)}, {}, Geometry(), {}, {})
    again = load_part(os.fspath(gcs_folder))  # the stage's folder above it
    assert again.id == saved.id and (again.params["w"] == np.arange(6.0)).all()
    save_part(gcs_folder / "part", "lm", {"w": np.arange(6.0)}, {}, Geometry(), {}, {}, dtype="bfloat16")
    assert load_part(gcs_folder / "part").params["w"].dtype.name == "bfloat16"
    files.write_whole(gcs_folder / "part" / "weights.safetensors", b"other")
    with pytest.raises(UserError, match="is damaged"):
        load_part(gcs_folder)
    files.write_whole(gcs_folder / "part" / "notes.txt", "mine")
    with pytest.raises(UserError, match="holds other things"):
        save_part(gcs_folder / "part", "lm", {"w": np.zeros(2)}, {}, Geometry(), {}, {})


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "WATCH_SECONDS", 1.0)
    monkeypatch.setattr(lock, "_WAIT_SECONDS", 0.05)


def test_a_lock_has_one_holder(gcs_folder, quick, monkeypatch):
    monkeypatch.setattr(lock, "WATCH_SECONDS", 30.0)  # buckets tell whole seconds of a file's age
    path = gcs_folder / "lock"
    assert not lock.in_use(path)
    with lock.claim(path):
        assert lock.in_use(path) and lock.holder_of(path)["process"] == os.getpid()
        assert lock.claim(path) is None
    assert not lock.in_use(path) and lock.holder_of(path) == {}
    lock.claim(path).close()


def test_of_many_that_find_it_free_one_gets_the_lock(gcs, gcs_folder, quick):
    """All have read that it is free before the first of them writes."""
    gcs.latency = 0.1
    held = []
    threads = [threading.Thread(target=lambda: held.append(lock.claim(gcs_folder / "lock"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gcs.latency = 0.0
    assert sum(each is not None for each in held) == 1
    next(each for each in held if each is not None).close()


def test_another_host_that_died_is_waited_out(gcs_folder, quick, monkeypatch):
    monkeypatch.setattr(lock, "WATCH_SECONDS", 2.0)  # buckets tell whole seconds of a file's age
    text = json.dumps({"host": "another", "process": 7, "command": "melody", "count": 1})
    files.write_whole(gcs_folder / "lock", text)
    assert lock.in_use(gcs_folder / "lock")
    began = time.monotonic()
    with lock.claim(gcs_folder / "lock"):
        assert time.monotonic() - began >= 2.0
    dead = lock._holder(3) | {"process": 2**22 + 1}  # no process has this number
    files.write_whole(gcs_folder / "lock", json.dumps(dead))
    began = time.monotonic()
    assert not lock.in_use(gcs_folder / "lock")
    with lock.claim(gcs_folder / "lock"):
        assert time.monotonic() - began < 0.9


TAKEN_OVER = """
import sys, time
from melody_jax import lock, storage
lock.BEAT_SECONDS = 0.2
held = lock.claim(storage.path(sys.argv[1]))
print("held", flush=True)
time.sleep(20)
"""


def test_a_holder_that_was_taken_for_dead_ends_at_once(gcs, gcs_folder):
    process = subprocess.Popen(
        [sys.executable, "-c", TAKEN_OVER, os.fspath(gcs_folder / "lock")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    gcs.put("test/lock", json.dumps({"host": "another", "process": 7, "count": 9}).encode())
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1 and "was taken over by process 7 on another" in said


def test_a_bucket_that_is_not_there_is_said_in_one_line(gcs):
    with pytest.raises(UserError, match="there is no bucket gs://another-bucket"):
        lock.claim(storage.path("gs://another-bucket/run/lock"))


@pytest.mark.parametrize("status", [HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED])
def test_no_right_to_a_bucket_is_said_in_one_line(gcs, gcs_folder, status, capsys):
    gcs.refusal = status
    with pytest.raises(UserError, match="gs://music-bucket/test/lock may not be used from here: .*no access"):
        lock.claim(gcs_folder / "lock")
    with pytest.raises(OSError, match="no access") as raised:
        files.write_whole(gcs_folder / "x", "1")
    assert exit_code_of(raised.value) == STOPPED  # another start would end alike
    assert main(["report", str(gcs_folder)]) == BAD_ARGUMENTS
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "the bucket may not be used from here" in said
