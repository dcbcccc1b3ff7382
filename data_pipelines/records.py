"""Random access to the records of TFRecord files, which is what makes an exact and instant resume possible.

A TFRecord is: length (uint64), its checksum (4 bytes), the data, its checksum (4 bytes). An index holds the end of each
record of a split, one uint64 each, in a file that is mapped into memory, so that opening reads no record. A missing
index is made by one pass over the lengths, and kept beside the records if that folder can be written.

Storage at the other end of a network answers late, but answers many requests at once: `Records.read` keeps IN_FLIGHT
reads under way and gives their records in the order asked for. In a bucket (gs://) each read is a request for a range
of bytes, and the index is read into memory, 8 bytes a record.
"""

import bisect
import collections
import concurrent.futures
import contextlib
import mmap
import os
import pathlib
import resource
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.files import whole_file
from melody_jax.storage import Path

IN_FLIGHT = 128  # reads under way at a time: 2,560 a second where each takes 50 ms
_HEAD, _TAIL = 12, 4
AROUND = _HEAD + _TAIL  # bytes of a record in addition to its data
_END = np.dtype("<u8")
_POOL = concurrent.futures.ThreadPoolExecutor(IN_FLIGHT, "records")


class Records:
    """The records of several TFRecord files, numbered through in the files' order.

    Args:
        paths: the shards of a split.
        lengths: how many records each must hold.
        index: file of the index; without one it is made for this object alone.

    Raises:
        UserError: a file is missing, cut short, or holds another number of records.
    """

    def __init__(self, paths: Sequence[str], lengths: Sequence[int], index: Path | None = None):
        stay_open = len(paths) <= _most_open_files() // 4
        self._files = list(_POOL.map(lambda path: _open(os.fspath(path), stay_open), paths))
        self._first = np.cumsum([0, *lengths]).tolist()  # number of each file's first record
        ends = None if index is None else self._mapped(index)
        if ends is None:
            ends = np.concatenate([_NONE, *_POOL.map(_ends, self._files, lengths)])
            if index is not None:
                with contextlib.suppress(OSError):
                    write_index(index, ends)
        self._ends = ends

    def __len__(self) -> int:
        return self._first[-1]

    def read(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """The records of these numbers, in this order; later ones are read while earlier ones are used."""
        ahead: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()
        for number in numbers:
            ahead.append(_POOL.submit(self._read, int(number)))
            if len(ahead) == IN_FLIGHT:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _read(self, number: int) -> bytes:
        file = bisect.bisect_right(self._first, number) - 1
        before = 0 if number == self._first[file] else int(self._ends[number - 1])
        start = before + _HEAD
        return self._files[file].read(start, int(self._ends[number]) - _TAIL - start)

    def _mapped(self, index: Path) -> np.ndarray | None:
        """The index in a file, if it belongs to these records: it must have their number, and end where each file
        ends."""
        try:
            if isinstance(index, pathlib.Path):
                with open(index, "rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                mapped.madvise(mmap.MADV_WILLNEED)
            else:
                mapped = index.read_bytes()
        except (OSError, ValueError):  # none there, or it is empty
            return None
        ends = np.frombuffer(mapped, np.uint8)
        if ends.size != len(self) * _END.itemsize:
            return None
        ends = ends.view(_END)
        held = np.diff(self._first) > 0
        last, sizes = np.asarray(self._first[1:])[held] - 1, np.asarray([file.size for file in self._files])[held]
        return ends if np.array_equal(ends[last], sizes) else None


def write_index(path: Path, ends: np.ndarray) -> None:
    """Writes the index of a split: where each record ends in its file, checksum included."""
    with whole_file(path) as scratch:
        ends.astype(_END, copy=False).tofile(scratch)


_NONE = np.empty(0, _END)


class _Local:
    """A file that stays open if possible: opening costs a request to a mounted bucket, and an open file can be read
    after its removal."""

    def __init__(self, path: str, stay_open: bool):
        self.path, self._descriptor = path, -1
        descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(descriptor).st_size
        if stay_open:
            self._descriptor = descriptor
        else:
            os.close(descriptor)

    def read(self, start: int, size: int) -> bytes:
        if self._descriptor >= 0:
            return os.pread(self._descriptor, size, start)
        with open(self.path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), size, start)

    def __del__(self):
        if self._descriptor >= 0:
            os.close(self._descriptor)


class _Remote:
    """An object in a bucket."""

    def __init__(self, path: str):
        self.path, self.size = path, storage.size_of(path)

    def read(self, start: int, size: int) -> bytes:
        return storage.read_range(self.path, start, start + size)


def _open(path: str, stay_open: bool) -> _Local | _Remote:
    try:
        return _Remote(path) if storage.in_bucket(path) else _Local(path, stay_open)
    except FileNotFoundError:
        raise UserError(f"{path}: a file of the data set is missing; build it again") from None


def _most_open_files() -> int:
    """How many files this process may have open, after raising its limit as far as allowed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # without a limit some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _ends(file: _Local | _Remote, length: int) -> np.ndarray:
    """Where each of the `length` records of a file ends."""
    ends, position = [], 0
    while position < file.size:
        head = file.read(position, 8)
        size = struct.unpack("<Q", head)[0] if len(head) == 8 else file.size
        position += _HEAD + size + _TAIL
        if position > file.size:
            raise UserError(f"{file.path}: cut short after {len(ends)} records; build the data set again")
        ends.append(position)
    if len(ends) != length:
        raise UserError(f"{file.path}: holds {len(ends)} records, not {length}; build the data set again")
    return np.asarray(ends, _END)
