"""Files that outlive a kill: written whole or not at all, line by line, closed now and then.

Folders become whole also where directories cannot be renamed: on buckets that are mounted as file systems.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

CLOSE_SECONDS = 60.0
"""How old what a killed process loses can be, of a file on a mounted bucket."""
UNFINISHED = ".unfinished"
"""Lies in a folder whose files are being put in their places, so that whoever writes there again knows its own."""


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


class Appended:
    """A file of JSON lines that grows, opened to be continued. Every line is on a disk when `write` returns.

    A mounted bucket keeps of a file what it had when it was closed: so it is closed, and opened again, with the first
    line after every `CLOSE_SECONDS`. Raises OSError where the disk is full.
    """

    def __init__(self, path: Path):
        self._path = path
        self._open()

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds a line."""
        self._file.write(json_lines([record]))
        self._file.flush()
        if time.monotonic() - self._since >= CLOSE_SECONDS:
            self._file.close()
            self._open()

    def close(self) -> None:
        """Ends it."""
        self._file.close()

    def _open(self) -> None:
        self._file, self._since = self._path.open("a"), time.monotonic()


def publish(scratch: Path, directory: Path, commit: str) -> None:
    """Gives the files of `scratch` a place under the name `directory`, instead of what had that name.

    Where the file system renames directories this is one rename, and the old folder is gone only afterwards. Cloud
    Storage FUSE refuses that (its objects have no folders). There the file `commit`, without which the folder counts as
    nothing, is removed first and written last: a kill in between leaves a folder that nobody reads, and never a mixture.

    Args:
      scratch: a folder beside `directory`, which is gone afterwards.
      commit: name of the file in it that readers open first.
    """
    old = directory.with_name(f".{directory.name}.old-{os.getpid()}")
    moved = False
    try:
        if directory.exists():
            directory.rename(old)
            moved = True
        scratch.rename(directory)
    except OSError:
        if moved:
            with suppress(OSError):
                old.rename(directory)
        _publish_files(scratch, directory, commit)
    shutil.rmtree(old, ignore_errors=True)


def _publish_files(scratch: Path, directory: Path, commit: str) -> None:
    names = sorted(path.relative_to(scratch) for path in scratch.rglob("*") if path.is_file())
    last = Path(commit)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / UNFINISHED).touch()
    (directory / last).unlink(missing_ok=True)
    for name in [*(name for name in names if name != last), last]:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        if name == last:
            _remove_others(directory, {directory / kept for kept in (*names, UNFINISHED)})
        os.replace(scratch / name, directory / name)
    (directory / UNFINISHED).unlink()
    shutil.rmtree(scratch, ignore_errors=True)


def _remove_others(directory: Path, kept: set[Path]) -> None:
    """What the folder held before, but for the files of these names."""
    for path in sorted(directory.rglob("*"), reverse=True):  # files before the folders that they are in
        if path.is_dir():
            with suppress(OSError):  # it holds something new
                path.rmdir()
        elif path not in kept:
            path.unlink()
