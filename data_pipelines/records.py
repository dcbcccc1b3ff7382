"""Random access to the records of TFRecord files, which is what makes an exact and instant resume possible.

A TFRecord is: length (uint64), its checksum (4 bytes), the data, its checksum (4 bytes). One pass over the lengths
gives every record's place; after that any record is one read. Local files are read without Python holding up other
threads; remote ones (gs://...) go through TensorFlow's file system, several at a time.
"""

import concurrent.futures
import os
import pathlib
import struct
from collections.abc import Sequence

import numpy as np

from melody_jax.errors import UserError

_HEAD, _TAIL = 12, 4
_REMOTE_READS = 16


class Records:
    """The records of several TFRecord files, numbered through in the files' order.

    Args:
        paths: the shards of a split.
        lengths: how many records each must hold.

    Raises:
        UserError: a file is missing, cut short, or holds another number of records.
    """

    def __init__(self, paths: Sequence[str], lengths: Sequence[int]):
        self._files = [_open(os.fspath(path)) for path in paths]
        places = []
        for number, (path, file, length) in enumerate(zip(paths, self._files, lengths, strict=True)):
            offsets = _offsets(file, path)
            if len(offsets) != length:
                raise UserError(f"{path}: holds {len(offsets)} records, not {length}; build the data set again")
            places += [(number, start, size) for start, size in offsets]
        self._places = np.asarray(places, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._places)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """The records of these numbers, in this order."""
        places = [(self._files[file], int(start), int(size)) for file, start, size in self._places[np.asarray(indices)]]
        if any(isinstance(file, _Remote) for file, _, _ in places):
            with concurrent.futures.ThreadPoolExecutor(_REMOTE_READS) as pool:
                return list(pool.map(lambda place: place[0].read(place[1], place[2]), places))
        return [file.read(start, size) for file, start, size in places]


class _Local:
    def __init__(self, path: str):
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, start: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, start)

    def __del__(self):
        os.close(self._descriptor)


class _Remote:
    def __init__(self, path: str):
        import tensorflow as tf

        self._open = lambda: tf.io.gfile.GFile(path, "rb")
        self.size = tf.io.gfile.stat(path).length

    def read(self, start: int, size: int) -> bytes:
        with self._open() as file:  # a GFile keeps one position, so that threads cannot share it
            file.seek(start)
            return file.read(size)


def _open(path: str) -> _Local | _Remote:
    if "://" in path:
        return _Remote(path)
    if not pathlib.Path(path).is_file():
        raise UserError(f"{path}: a file of the data set is missing; build it again")
    return _Local(path)


def _offsets(file: _Local | _Remote, path: str) -> list[tuple[int, int]]:
    """(start, size) of every record's data."""
    result, position = [], 0
    while position < file.size:
        head = file.read(position, 8)
        size = struct.unpack("<Q", head)[0] if len(head) == 8 else file.size
        end = position + _HEAD + size + _TAIL
        if end > file.size:
            raise UserError(f"{path}: cut short after {len(result)} records; build the data set again")
        result.append((position + _HEAD, size))
        position = end
    return result
