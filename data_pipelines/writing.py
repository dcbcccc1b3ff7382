"""How TFDS writes our data sets: quietly, in bounded memory, and after killed runs."""

import contextlib
import pathlib
import resource
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
import tqdm
from tensorflow_datasets.core import shuffle

from data_pipelines import read

# TFDS keeps up to 1 GB of examples in memory to shuffle them, and more in files; the order is the same.
_SHUFFLED_IN_MEMORY = 64 << 20


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder that reports its progress in our words instead of its own."""

    def download_and_prepare(self, **kwargs) -> None:
        """As TFDS's own; clears away what killed runs left behind, and leaves an index of the records."""
        directory = pathlib.Path(self.data_path)
        for leftover in directory.parent.glob(f"incomplete.*_{directory.name}"):
            shutil.rmtree(leftover)
        tfds.disable_progress_bar()
        with _bounded():
            super().download_and_prepare(**kwargs)
        for split in self.info.splits:
            read.open_split(directory, split)  # which makes the index, while the files are at hand

    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


def shown(examples: Iterable[Any], split: str, total: int | None = None) -> Iterator[Any]:
    """`examples` with a progress bar."""
    yield from tqdm.tqdm(examples, f"writing {split}", total, unit=" clips", mininterval=0.5, leave=False)


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    kept = shuffle.MAX_MEM_BUFFER_SIZE
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    # It opens a file for each of its buckets.
    resource.setrlimit(resource.RLIMIT_NOFILE, (_more(files[0], files[1]), files[1]))
    shuffle.MAX_MEM_BUFFER_SIZE = _SHUFFLED_IN_MEMORY if _more(*files) > 2 * shuffle.BUCKETS_NUMBER else kept
    try:
        yield
    finally:
        shuffle.MAX_MEM_BUFFER_SIZE = kept


def _more(soft: int, hard: int) -> int:
    wanted = 4 * shuffle.BUCKETS_NUMBER
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
