"""Files that outlive a kill: written whole or not at all, line by line, closed now and then.

Folders become whole also where directories cannot be renamed: in buckets, mounted as file systems or not.
"""

import errno
import fcntl
import gzip
import json
import os
import pathlib
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.storage import Path

CLOSE_SECONDS = 60.0
"""How old what a killed process loses can be, of a file in a bucket."""
UNFINISHED = ".unfinished"
"""Marks a folder whose files are still being moved into place, so that the next writer may replace them."""


def write_whole(path: str | os.PathLike, content: str | bytes) -> Path:
    """Writes a file so that a reader finds all of it, or what was there before; returns its path.

    Text is UTF-8. Raises OSError where the disk is full or a bucket refuses; nothing is left behind then.
    """
    path, data = storage.path(path), content.encode() if isinstance(content, str) else content
    if not isinstance(path, pathlib.Path):
        storage.write(path, data)  # objects are never seen in part
        return path
    with whole_file(path) as scratch:
        scratch.write_bytes(data)
    return path


@contextmanager
def whole_file(path: Path, new: bool = False) -> Iterator[pathlib.Path]:
    """A name to write to that becomes `path` in the end: nobody finds half a file, and nothing is left of a failure.

    Args:
      new: raise FileExistsError, and leave alone what is there, where another process has written `path` by then.
    """
    if not isinstance(path, pathlib.Path):
        with storage.written(path) as scratch:
            yield scratch
            if new and storage.replace_version(path, b"", 0) is None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        return
    scratch = scratch_of(path)
    try:
        yield scratch
        _give_name(scratch, path) if new else scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def scratch_of(path: pathlib.Path) -> pathlib.Path:
    """The hidden file beside `path` that this process writes what is to become `path` to."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def _give_name(scratch: pathlib.Path, path: pathlib.Path) -> None:
    """Renames a file. Raises FileExistsError where the name is taken; of two processes one gets it."""
    try:
        os.link(scratch, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: for a moment the file is there, and empty
        path.open("xb").close()
        scratch.replace(path)


def json_lines(records: Any) -> str:
    """One line of JSON for each record."""
    return "".join(json.dumps(record) + "\n" for record in records)


def read_text(path: str | os.PathLike, absent: str | None = None) -> str:
    """A text file as people hand it in: UTF-8, with or without a byte order mark; `.gz` is unpacked; lines end in "\\n".

    Args:
      absent: what the error says where there is no file.

    Raises:
      UserError: there is none, it cannot be read, or a line is not UTF-8; the message names file and line.
    """
    file = storage.path(path)
    try:
        data = file.read_bytes()
        if file.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, ValueError, EOFError, zlib.error) as error:  # ValueError: a NUL in the name; EOFError: a cut .gz
        if absent and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise UserError(absent) from None
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 ({error.reason}); save it as UTF-8") from None


def read_json(path: str | os.PathLike, absent: str | None = None) -> Any:
    """What a file of JSON holds. Raises UserError as `read_text` does, and where it is no JSON."""
    text = read_text(path, absent)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def read_object(path: str | os.PathLike, absent: str | None = None) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError as `read_json` does, and where it holds something else."""
    info = read_json(path, absent)
    if not isinstance(info, dict):
        raise UserError(f"{path} cannot be read: it holds no JSON object")
    return info


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, [] if there is none; a line that a kill has cut short is left out."""
    records = []
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""  # a crash may leave anything
    for line in text.splitlines():
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
    line after every `CLOSE_SECONDS`. An object cannot be continued: it is written anew as often. Raises OSError where
    the disk is full.
    """

    def __init__(self, path: Path):
        self._path = path
        self._lines = [] if isinstance(path, pathlib.Path) else [json_lines(read_lines(path))]
        cut = isinstance(path, pathlib.Path) and path.exists() and _is_cut(path)
        self._open()
        if cut and self._file is not None:
            self._file.write("\n")  # or the next record would be lost with the line that a kill has cut

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds a line."""
        if self._file is None:
            self._lines.append(json_lines([record]))
        else:
            self._file.write(json_lines([record]))
            self._file.flush()
        if time.monotonic() - self._since >= CLOSE_SECONDS:
            self.keep()

    def keep(self) -> None:
        """What has been written until now will survive a kill, also in a bucket."""
        self.close()
        self._open()

    def close(self) -> None:
        """Ends it."""
        if self._file is None:
            write_whole(self._path, "".join(self._lines))
        else:
            self._file.close()

    def _open(self) -> None:
        self._file = self._path.open("a") if isinstance(self._path, pathlib.Path) else None
        self._since = time.monotonic()


def _is_cut(path: pathlib.Path) -> bool:
    """Whether a file's last line has no end."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() not in (b"", b"\n")


@contextmanager
def whole_folder(directory: Path, commit: str) -> Iterator[pathlib.Path]:
    """An empty folder to write to, which gets the name `directory` in the end (`publish`); nothing is left of a failure."""
    if isinstance(directory, pathlib.Path):
        scratch = directory.with_name(f".{directory.name}.tmp-{os.getpid()}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    else:
        scratch = pathlib.Path(tempfile.mkdtemp(prefix="melody-"))
    try:
        yield scratch
        publish(scratch, directory, commit)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish(scratch: pathlib.Path, directory: Path, commit: str) -> None:
    """Gives the files of `scratch` a place under the name `directory`, instead of what had that name.

    Where the file system renames directories this is one rename, and the old folder is gone only afterwards. Buckets
    have no folders, and Cloud Storage FUSE refuses to rename any. There the file `commit`, without which the folder counts
    as nothing, is removed first and written last: a kill in between leaves a folder that nobody reads, and never a mixture.

    Args:
      scratch: a folder, beside `directory` unless that is in a bucket, which is gone afterwards.
      commit: name of the file in it that readers open first.
    """
    if not isinstance(directory, pathlib.Path):
        _upload(scratch, directory, commit)
        return
    with placing(directory.absolute().parent):
        _publish_here(scratch, directory, commit)


@contextmanager
def placing(folder: pathlib.Path) -> Iterator[None]:
    """While files are moved into place in a folder: one process of this machine at a time, so that they never mix."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _publish_here(scratch: pathlib.Path, directory: pathlib.Path, commit: str) -> None:
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


def _upload(scratch: pathlib.Path, directory: Path, commit: str) -> None:
    (directory / UNFINISHED).write_text("")
    (directory / commit).unlink(missing_ok=True)
    names = list(storage.files_below(scratch))
    storage.upload(scratch, directory, [name for name in names if name != commit])
    for name in storage.files_below(directory).keys() - {*names, UNFINISHED}:
        (directory / name).unlink()
    storage.upload(scratch, directory, [commit])
    (directory / UNFINISHED).unlink()
    shutil.rmtree(scratch, ignore_errors=True)


def _publish_files(scratch: pathlib.Path, directory: pathlib.Path, commit: str) -> None:
    names = sorted(path.relative_to(scratch) for path in scratch.rglob("*") if path.is_file())
    last = pathlib.Path(commit)
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


def _remove_others(directory: pathlib.Path, kept: set[pathlib.Path]) -> None:
    """What the folder held before, but for the files of these names."""
    for path in sorted(directory.rglob("*"), reverse=True):  # files before the folders that they are in
        if path.is_dir():
            with suppress(OSError):  # it holds something new
                path.rmdir()
        elif path not in kept:
            path.unlink()
