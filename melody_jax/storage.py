"""Where files lie: in folders of this machine, or in a bucket of Google Cloud Storage, gs://BUCKET/... (docs/buckets.md).

`path` makes a path of what a user has written, and both kinds of path are used alike: `/`, `exists`, `read_text`, `mkdir` and
so on. The rest is what buckets do otherwise. Their objects appear whole or not at all, and cannot be renamed, appended to
or mapped into memory; folders are parts of names.
"""

import contextlib
import errno
import importlib.util
import json
import logging
import os
import pathlib
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

os.environ.setdefault(
    "EPATH_USE_TF", "false"
)  # etils reads it once, and would otherwise load TensorFlow to read buckets

from etils import epath

from melody_jax.errors import UserError, lacking

Path = pathlib.Path | epath.Path
"""A path of either kind."""
DATA_DIR = "./data"
"""Where data sets lie, unless another folder is named."""
_BUCKETS = "gs://"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def path(text: str | os.PathLike) -> Path:
    """The path that `text` names; a path stays what it is.

    Raises:
      UserError: an address of another kind than gs://BUCKET/..., or the extra `gcs` is not installed.
    """
    text = os.fspath(text)
    if not _ADDRESS.match(text):
        return pathlib.Path(text)
    if not text.startswith(_BUCKETS):
        raise UserError(f"{text} is an address; files lie in folders of this machine or in {_BUCKETS}BUCKET/...")
    if not text.removeprefix(_BUCKETS).partition("/")[0]:
        raise UserError(f"{text}: names no bucket; expected {_BUCKETS}BUCKET/...")
    if importlib.util.find_spec("gcsfs") is None:
        raise lacking("gcs", text)
    _client()
    return epath.Path(text)


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether the path is one of a bucket."""
    return os.fspath(path).startswith(_BUCKETS)


def local(text: str | os.PathLike, what: str) -> pathlib.Path:
    """The path that `text` names, for what cannot be done in a bucket.

    Args:
      what: the path is of, for a message.

    Raises:
      UserError: it is an address.
    """
    if _ADDRESS.match(os.fspath(text)):
        raise UserError(f"{text} is an address; {what} must be one of this machine: a mounted bucket is")
    return pathlib.Path(text)


def absolute(path: Path) -> Path:
    """The absolute path; a path in a bucket is one already."""
    return path if in_bucket(path) else path.absolute()


def below(folder: Path, name: str) -> Path:
    """The path that `name` names, counted from a folder: one in a bucket, or an absolute one, stays what it is."""
    return path(name) if in_bucket(name) or os.path.isabs(name) else folder / name


def files_below(directory: Path) -> dict[str, int]:
    """Bytes of every file in a folder and in the folders in it, by its path inside; {} where there is none."""
    if isinstance(directory, pathlib.Path):
        found = sorted(file for file in directory.rglob("*") if file.is_file())
        return {str(file.relative_to(directory)): file.stat().st_size for file in found}
    above = f"{os.fspath(directory).removeprefix(_BUCKETS).rstrip('/')}/"
    found = _client().find(directory, detail=True)
    return {name.removeprefix(above): int(facts["size"]) for name, facts in found.items() if name != above}


def remove_folder(directory: Path) -> None:
    """Removes a folder and all that is in it, if it is there."""
    if isinstance(directory, pathlib.Path):
        shutil.rmtree(directory, ignore_errors=True)
    elif names := files_below(directory):
        _client().rm([f"{directory}/{name}" for name in names])


def read_range(path: str | os.PathLike, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file. Threads that call it at the same time read in parallel."""
    if in_bucket(path):
        return _client().cat_file(os.fspath(path), start, stop)
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), stop - start, start)


def size_of(path: str | os.PathLike) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    return size_and_change(path)[0]


def size_and_change(path: str | os.PathLike) -> tuple[int, int]:
    """Bytes of a file, and its time of change in nanoseconds. Raises FileNotFoundError."""
    if in_bucket(path):
        facts = _client().info(os.fspath(path))
        return int(facts["size"]), round(facts["mtime"].timestamp() * 1e9)
    facts = os.stat(path)
    return facts.st_size, facts.st_mtime_ns


def write(path: Path, data: bytes) -> None:
    """Writes an object, whole. Raises OSError, as `upload` and `written` do, also where the network fails."""
    with _os_errors():
        path.write_bytes(data)


def upload(scratch: pathlib.Path, directory: Path, names: list[str]) -> None:
    """Copies the files of these names from a folder of this machine into one of a bucket, many at a time."""
    if not names:
        return
    with _os_errors():
        _client().put([str(scratch / name) for name in names], [f"{directory}/{name}" for name in names])


@contextlib.contextmanager
def written(path: Path) -> Iterator[pathlib.Path]:
    """A file of this machine to write what is to become `path`: itself, or one that is uploaded at the end."""
    if isinstance(path, pathlib.Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="melody-") as folder:
        file = pathlib.Path(folder) / path.name
        yield file
        with _os_errors():
            _client().put_file(str(file), os.fspath(path))


@contextlib.contextmanager
def written_folder(directory: Path) -> Iterator[pathlib.Path]:
    """A folder of this machine to write files of `directory` to: itself, or one whose files are uploaded at the end."""
    if isinstance(directory, pathlib.Path):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="melody-") as scratch:
        yield pathlib.Path(scratch)
        upload(pathlib.Path(scratch), directory, list(files_below(pathlib.Path(scratch))))


@contextlib.contextmanager
def fetched(path: Path) -> Iterator[pathlib.Path]:
    """A file of this machine with the contents of `path`, for what reads no other: itself, or a copy for the time being."""
    if isinstance(path, pathlib.Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="melody-") as folder:
        file = pathlib.Path(folder) / path.name
        _client().get_file(os.fspath(path), str(file))
        yield file


def read_version(path: Path) -> tuple[bytes, int]:
    """What an object holds, and its generation, which every write changes; (b"", 0) where there is none.

    Raises:
      UserError: it may not be read.
    """
    client = _client()
    try:
        with _said(path):
            headers, data = client.call("GET", client.url(os.fspath(path)))
    except FileNotFoundError:
        return b"", 0
    return data, int(headers["x-goog-generation"])


def replace_version(path: Path, data: bytes, generation: int) -> int | None:
    """Writes an object if that of this generation (0: none) still stands, and returns the new one's; None if not.

    Of several processes, on whatever hosts, one succeeds.

    Raises:
      UserError: there is no such bucket, or it may not be written to.
    """
    client = _client()
    bucket, name = os.fspath(path).removeprefix(_BUCKETS).split("/", 1)
    url = f"{client._location}/upload/storage/v1/b/{bucket}/o"
    options = {"uploadType": "media", "name": name, "ifGenerationMatch": str(generation)}
    try:
        with _said(path):
            return int(json.loads(client.call("POST", url, data=data, **options)[1])["generation"])
    except FileExistsError:  # what gcsfs makes of a precondition that does not hold
        found, now = read_version(path)
        return now if found == data else None  # a request that was repeated had been answered
    except FileNotFoundError:
        raise UserError(f"there is no bucket {_BUCKETS}{bucket}, or it may not be seen from here") from None


def check_writable(directory: Path) -> None:
    """Finds out, before the work, whether files can be written to a folder of a bucket and removed there.

    Raises:
      UserError: no such bucket, or no right to it.
    """
    probe = directory / f".melody-{secrets.token_hex(8)}"
    replace_version(probe, b"", 0)
    probe.unlink()


def refusal(error: BaseException) -> str | None:
    """What Cloud Storage has answered, in a line, where the error says that it refuses; None for any other."""
    if getattr(error, "code", None) == 401 or str(error).startswith("Forbidden"):
        return " ".join(str(error).split())
    return None


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if reason := refusal(error):
            raise UserError(f"{path} may not be used from here: {reason}") from None
        raise


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Turns gcsfs's own exceptions into OSError, so that a bucket that fails is handled as a disk that fails."""
    try:
        yield
    except Exception as error:
        if reason := refusal(error):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), reason) from error
        if isinstance(error, OSError):
            raise
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error


def _client() -> Any:
    """gcsfs, the one that etils uses too: listings are never remembered, as other hosts write as well."""
    import fsspec
    from fsspec.config import conf

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it raises what it logs
    conf.setdefault("gs", {"use_listings_cache": False})
    return fsspec.filesystem("gcs", finalize_on_close=True)
