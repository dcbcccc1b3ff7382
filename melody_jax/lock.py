"""Locks on folders between processes of one machine: two never write the same thing. A lock ends with its process."""

import contextlib
import fcntl
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import IO

_WAIT_SECONDS = 0.5


def claim(file: pathlib.Path) -> IO[str] | None:
    """The lock `file`, which is made and from then on says who holds it; None while somebody else does.

    A child process that inherits the open file holds the lock as long as it lives.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    opened = file.open("a+")
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        opened.close()
        return None
    opened.truncate(0)
    opened.write(f"process {os.getpid()} ({' '.join(sys.argv)[:200]!r})")
    opened.flush()
    return opened


@contextlib.contextmanager
def waiting(file: pathlib.Path, what: str) -> Iterator[None]:
    """Holds the lock `file`; while another process does, says so once and waits for its end.

    Args:
        what: what the lock is of, for that line.
    """
    held = claim(file)
    if held is None:
        holder = file.read_text(errors="replace") or "another process"
        print(f"{what}: {holder} is writing it; waiting for its end", file=sys.stderr, flush=True)
    while held is None:
        time.sleep(_WAIT_SECONDS)
        held = claim(file)
    with held:
        yield
