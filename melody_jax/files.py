"""Files that outlive a kill: written whole or not at all, read line by line, and folders with one writer at a time."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOCK = "lock"


def write_whole(path: str | os.PathLike, content: str | bytes) -> Path:
    """Writes a file so that a reader finds all of it, or what was there before; returns its path.

    Text is UTF-8. Raises OSError where the disk is full; nothing is left behind then.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)
        return scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise


def json_lines(records: Any) -> str:
    """One line of JSON for each record."""
    return "".join(json.dumps(record) + "\n" for record in records)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, [] if there is none; a line that a kill has cut short is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, Mapping):
            records.append(record)
    return records


@contextmanager
def sole_writer(directory: Path) -> Iterator[bool]:
    """Holds the lock of a folder, which is made; whether this process has got it. It ends with the process."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def in_use(directory: Path) -> bool:
    """Whether a process of this machine holds the lock of a folder."""
    if not (directory / LOCK).exists():
        return False
    with (directory / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
