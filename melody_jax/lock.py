"""Locks between processes, also of several hosts: two never write the same thing.

Within a host the file of a lock is locked, and that ends with the process however it ends. Other hosts that see the same
folder, on a mounted bucket or a network's disk, are told by the file's contents: who holds it, and a count that goes on
as long as it does. Nobody's clock is asked; a count that stands still is a holder that has died without a farewell.

In a bucket (gs://) the contents are all there is. They are written only over the very version that was read, so that of
two hosts that find a lock free one gets it, and a holder that was taken for dead learns of it with its next count: it ends
at once, for whatever else it wrote would go among its successor's files.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from melody_jax import storage
from melody_jax.errors import FAILED
from melody_jax.storage import Path

BEAT_SECONDS = 20.0
"""How often the holder raises the count."""
WATCH_SECONDS = 100.0
"""How long another host's count is watched before the host is taken for dead; a mounted bucket shows files a minute late."""
_WAIT_SECONDS = 0.5


class Held:
    """A lock that this process holds, until `close` or its end."""

    def __init__(self, claim: str = ""):
        self._count, self._claim = 0, claim
        self._ended, self._writing = threading.Event(), threading.Lock()
        threading.Thread(target=self._go_on, daemon=True, name="lock").start()

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Of the file, for a child that inherits it. It holds the lock too, for this host, as long as it lives."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets go, and says so to other hosts."""
        with self._writing:  # no beat comes after the farewell
            if not self._ended.is_set():
                self._ended.set()
                self._leave()

    def _go_on(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # suppressed: a full disk, a network that is down; others wait longer than one beat
            with self._writing, contextlib.suppress(Exception):
                if not self._ended.is_set():
                    self._beat()

    def _content(self) -> str:
        self._count += 1
        return json.dumps(_holder(self._count, self._claim))

    def _beat(self) -> None:
        raise NotImplementedError

    def _leave(self) -> None:
        raise NotImplementedError


class _HeldFile(Held):
    def __init__(self, path: pathlib.Path, file: Any):
        self._path, self._file = path, file
        super().__init__()
        with self._writing:
            self._beat()

    def fileno(self) -> int:
        return self._file.fileno()

    def _beat(self) -> None:
        # opened and closed each time: a mounted bucket shows what has been closed
        self._path.write_text(self._content())

    def _leave(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: others wait until the count stands still
            self._path.write_text("")
        self._file.close()


class _HeldObject(Held):
    def __init__(self, path: Path, generation: int, claim: str):
        self._path, self._generation = path, generation
        super().__init__(claim)

    def _beat(self) -> None:
        now = storage.replace_version(self._path, self._content().encode(), self._generation)
        if now is None:
            print(f"error: {self._path} was taken over by {_said(holder_of(self._path))}", file=sys.stderr, flush=True)
            os._exit(FAILED)
        self._generation = now

    def _leave(self) -> None:
        with contextlib.suppress(Exception):  # others wait until the count stands still
            storage.replace_version(self._path, b"", self._generation)


def claim(file: Path) -> Held | None:
    """The lock `file`, which is made and from then on says who holds it; None while somebody else does.

    Where another host has it, or died with it, this takes up to `WATCH_SECONDS`.

    Raises:
      UserError: its bucket is not there or may not be written to.
    """
    if not isinstance(file, pathlib.Path):
        return _claim_object(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    opened = file.open("a")
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        opened.close()
        return None
    if _lives_elsewhere(file):
        opened.close()
        return None
    return _HeldFile(file, opened)


def _claim_object(path: Path) -> Held | None:
    data, generation = storage.read_version(path)
    if (holder := _parsed(data)) and not _died_here(holder):
        end = time.monotonic() + WATCH_SECONDS
        while data and time.monotonic() < end:
            time.sleep(min(_WAIT_SECONDS, WATCH_SECONDS / 10))
            before = generation
            data, generation = storage.read_version(path)
            if data and generation != before:
                return None
    claim = secrets.token_hex(8)  # tells two claims of one process apart
    held = storage.replace_version(path, json.dumps(_holder(0, claim)).encode(), generation)
    return None if held is None else _HeldObject(path, held, claim)


@contextlib.contextmanager
def waiting(file: Path, what: str) -> Iterator[None]:
    """Holds the lock `file`; while another process does, says so once and waits for its end.

    Args:
      what: what the lock is of, for that line.
    """
    held = claim(file)
    if held is None:
        print(f"{what}: {_said(holder_of(file))} is writing it; waiting for its end", file=sys.stderr, flush=True)
    while held is None:
        time.sleep(_WAIT_SECONDS)
        held = claim(file)
    with held:
        yield


def in_use(file: Path) -> bool:
    """Whether a process of this host holds the lock `file`, or one of another host has said so within the last minutes."""
    if not file.exists():
        return False
    if not isinstance(file, pathlib.Path):
        holder = holder_of(file)
        return bool(holder) and not _died_here(holder) and time.time() - file.stat().mtime < WATCH_SECONDS
    with file.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    holder = holder_of(file)
    return bool(holder) and holder["host"] != _host() and time.time() - file.stat().st_mtime < WATCH_SECONDS


def holder_of(file: Path) -> dict[str, Any]:
    """{"host", "process", "command", "count"} of who holds the lock or died with it; {} of one that is free."""
    try:
        return _parsed(file.read_bytes())
    except OSError:
        return {}


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "host" in found else {}


def _holder(count: int, claim: str = "") -> dict[str, Any]:
    facts = {"host": _host(), "processes": _processes(), "process": os.getpid(), "command": " ".join(sys.argv)[:200]}
    return facts | {"count": count, "claim": claim}


def _died_here(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this host that is there no more; in another container it cannot be seen."""
    if (holder["host"], holder.get("processes")) != (_host(), _processes()):
        return False
    return not pathlib.Path(f"/proc/{holder['process']}").exists()


def _lives_elsewhere(file: Path) -> bool:
    first = holder_of(file)
    end = time.monotonic() + WATCH_SECONDS
    while first and first["host"] != _host() and time.monotonic() < end:
        time.sleep(min(_WAIT_SECONDS, WATCH_SECONDS / 10))
        now = holder_of(file)
        if now and now != first:
            return True
        first = now
    return False


def _said(holder: dict[str, Any]) -> str:
    return f"process {holder['process']} on {holder['host']}" if holder else "another process"


def _host() -> str:
    """A unique name for this host since its start: clouds give hosts of different slices the same name."""
    try:
        return f"{socket.gethostname()} {pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    except OSError:
        return socket.gethostname()


def _processes() -> str:
    """The namespace of process numbers that this process sees: that of its container."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
