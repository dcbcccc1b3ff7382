"""Locks within a host and, by a count in their file, between hosts."""

import json
import subprocess
import sys
import threading
import time

import pytest

from melody_jax import lock


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.5)
    monkeypatch.setattr(lock, "_WAIT_SECONDS", 0.05)


def write(path, **changes):
    path.write_text(json.dumps({"host": "another", "process": 7, "command": "melody", "count": 1} | changes))


def test_a_lock_has_one_holder(tmp_path):
    file = tmp_path / "new" / "lock"
    with lock.claim(file):
        assert lock.in_use(file) and lock.claim(file) is None
    assert not lock.in_use(file) and not lock.in_use(tmp_path / "none")


def test_the_count_goes_on_until_it_is_let_go(tmp_path, quick):
    held = lock.claim(tmp_path / "lock")
    first = lock.holder_of(tmp_path / "lock")["count"]
    end = time.monotonic() + 10
    while lock.holder_of(tmp_path / "lock").get("count", first) == first and time.monotonic() < end:
        time.sleep(0.02)
    assert lock.holder_of(tmp_path / "lock")["count"] > first
    held.close()
    time.sleep(0.1)
    assert lock.holder_of(tmp_path / "lock") == {}
    lock.claim(tmp_path / "lock").close()


def test_no_beat_follows_the_end(tmp_path, quick, monkeypatch):
    """A beat that is being written when the lock is let go is over before others are told."""
    held, beating = lock.claim(tmp_path / "lock"), threading.Event()
    content = held._content

    def slow():
        beating.set()
        time.sleep(0.1)
        return content()

    monkeypatch.setattr(held, "_content", slow)
    assert beating.wait(10)
    held.close()
    time.sleep(0.2)
    assert lock.holder_of(tmp_path / "lock") == {}


def test_another_host_that_lives_keeps_its_lock(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(lock, "WATCH_SECONDS", 60.0)  # it is over with the first count that is seen to go on
    path, ended = tmp_path / "lock", threading.Event()

    def live():
        count = 0
        while not ended.wait(0.02):
            count += 1
            write(path, count=count)

    write(path)
    other = threading.Thread(target=live)
    other.start()
    try:
        assert lock.claim(path) is None
        assert lock.in_use(path)
    finally:
        ended.set()
        other.join()


def test_another_host_that_died_is_waited_out_once(tmp_path, quick):
    write(tmp_path / "lock")
    began = time.monotonic()
    with lock.claim(tmp_path / "lock"):
        assert time.monotonic() - began >= 0.5
        assert lock.holder_of(tmp_path / "lock")["host"] == lock._host()
    with lock.claim(tmp_path / "lock"):
        assert time.monotonic() - began < 5


def test_a_process_of_this_host_that_died_is_not_waited_for(tmp_path):
    script = f"from melody_jax import lock, pathlib; lock.claim(pathlib.Path({str(tmp_path / 'lock')!r})); import os; os._exit(9)"
    script = script.replace("from melody_jax import lock, pathlib", "import pathlib; from melody_jax import lock")
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    assert lock.holder_of(tmp_path / "lock")["host"] == lock._host()  # without a farewell
    began = time.monotonic()
    lock.claim(tmp_path / "lock").close()
    assert time.monotonic() - began < lock.WATCH_SECONDS / 4


def test_who_waits_says_for_whom(tmp_path, quick, capsys):
    held = lock.claim(tmp_path / "lock")
    threading.Timer(0.2, held.close).start()
    with lock.waiting(tmp_path / "lock", "data/x"):
        pass
    assert "data/x: process" in capsys.readouterr().err
