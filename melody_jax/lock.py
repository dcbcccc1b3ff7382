"""Locks between processes, also of several hosts: two never write the same thing.

Within a host the file of a lock is locked, and that ends with the process however it ends. Other hosts that see the same
folder, on a mounted bucket or a network's disk, are told by the file's contents: who holds it, and a count that goes on
as long as it does. Nobody's clock is asked; a count that stands still is a holder that has died without a farewell.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

BEAT_SECONDS = 20.0
"""The count goes on this often."""
WATCH_SECONDS = 100.0
"""So long is another host's count watched before it is taken for dead; a mounted bucket shows files a minute late."""
_WAIT_SECONDS = 0.5


class Held:
    """A lock that this process holds. A child that inherits its file holds it too, for this host, as long as it lives."""

    def __init__(self, path: pathlib.Path, file: Any):
        self._path, self._file, self._count = path, file, 0
        self._holder = {"host": _host(), "process": os.getpid(), "command": " ".join(sys.argv)[:200]}
        self._ended = threading.Event()
        self._beat()
        threading.Thread(target=self._go_on, daemon=True, name="lock").start()

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Of the file, for a child that inherits it."""
        return self._file.fileno()

    def close(self) -> None:
        """Lets go, and says so to other hosts."""
        if not self._ended.is_set():
            self._ended.set()
            with contextlib.suppress(OSError):  # a full disk: others wait until the count stands still
                self._path.write_text("")
            self._file.close()

    def _go_on(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                self._beat()

    def _beat(self) -> None:
        self._count += 1
        # opened and closed each time: a mounted bucket shows what has been closed
        self._path.write_text(json.dumps(self._holder | {"count": self._count}))


def claim(file: pathlib.Path) -> Held | None:
    """The lock `file`, which is made and from then on says who holds it; None while somebody else does.

    Where another host has it, or died with it, this takes up to `WATCH_SECONDS`.
    """
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
    return Held(file, opened)


@contextlib.contextmanager
def waiting(file: pathlib.Path, what: str) -> Iterator[None]:
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


def in_use(file: pathlib.Path) -> bool:
    """Whether a process of this host holds the lock `file`, or one of another host has said so within the last minutes."""
    if not file.exists():
        return False
    with file.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    holder = holder_of(file)
    return bool(holder) and holder["host"] != _host() and time.time() - file.stat().st_mtime < WATCH_SECONDS


def holder_of(file: pathlib.Path) -> dict[str, Any]:
    """{"host", "process", "command", "count"} of who holds the lock or died with it; {} of one that is free."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "host" in found else {}


def _lives_elsewhere(file: pathlib.Path) -> bool:
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
    """This host since it was started, as no other is called: clouds give hosts of different slices the same name."""
    try:
        return f"{socket.gethostname()} {pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    except OSError:
        return socket.gethostname()
