"""Clips made by all cores and staged on disk in chunks, so that a killed build goes on where it stopped.

A chunk is a fixed run of the work list, made by one process and written to a temporary name until it is whole. What a
chunk holds depends on its work alone: neither the number of processes nor an interruption can change a byte. Its name
carries a hash of its work, so a changed plan redoes what changed and nothing else. No TensorFlow here.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import tqdm

from data_pipelines.clip import Clip
from data_pipelines.decode import UnusableError
from data_pipelines.sources import Rejection
from melody_jax.codes import controls
from melody_jax.errors import UserError

# 16 clips of 10 s take a process a second or two: often enough for the progress bar, seldom enough for the disk.
CHUNK = 16
# Part of every chunk's name: raise it when the staged form or the making of clips changes.
_FORM = 2

Make = Callable[[Any], Iterator[Clip | Rejection]]


@dataclasses.dataclass(frozen=True)
class Work:
    """One piece of work: a file or a tune to render. `name` is what a rejection calls it."""

    name: str
    split: str
    item: Any


@dataclasses.dataclass(frozen=True)
class Staged:
    """The finished chunks in the order of the work list."""

    chunks: tuple[pathlib.Path, ...]

    def examples(self, split: str | None = None) -> Iterator[dict[str, Any]]:
        """Examples as the data set stores them (`audio` int16 [T]), of one split or of all."""
        for record in self._records():
            if "reason" not in record and split in (None, record["split"]):
                yield record

    def rejections(self) -> list[Rejection]:
        return [Rejection(r["path"], r["reason"], r["start"]) for r in self._records() if "reason" in r]

    def content_hash(self) -> str:
        """sha256 over everything staged: the identity of a data set."""
        digest = hashlib.sha256()
        for chunk in self.chunks:
            digest.update(chunk.read_bytes())
        return digest.hexdigest()

    def _records(self) -> Iterator[dict[str, Any]]:
        for chunk in self.chunks:
            with open(chunk, "rb") as file:
                for line in file:
                    record = json.loads(line)
                    if "samples" in record:
                        record["audio"] = np.frombuffer(file.read(2 * record.pop("samples")), "<i2")
                    yield record


def stage(work: Sequence[Work], make: Make, directory: pathlib.Path, processes: int, unit: str) -> Staged:
    """Makes all clips of `work` that are not staged yet, with a progress bar.

    Args:
        work: in the order of the data set.
        make: turns an item into clips; importable by a fresh process (a module's function, or a partial of one).
            Whatever it raises becomes a rejection of that item with the exception as the reason.
        directory: where the chunks lie; made if missing.
        processes: how many to use; 1 works in this process.
        unit: what the progress bar counts.

    Raises:
        UserError: a process died (killed, or out of memory). What it had finished is kept.
    """
    directory.mkdir(parents=True, exist_ok=True)
    jobs = []
    for start in range(0, len(work), CHUNK):
        part = tuple(work[start : start + CHUNK])
        # repr of frozen dataclasses and partials of functions is their content, once addresses are kept out of it
        tag = hashlib.sha256(repr((_FORM, _described(make), part)).encode("utf-8", "backslashreplace")).hexdigest()[:16]
        jobs.append((directory / f"chunk-{start // CHUNK:06d}-{tag}", part))
    waiting = [job for job in jobs if not job[0].exists()]
    bar = {"unit": f" {unit}", "desc": "preparing clips", "smoothing": 0.05, "disable": not waiting}
    with tqdm.tqdm(total=len(work), **bar) as progress:
        progress.update(len(work) - sum(len(part) for _, part in waiting))
        progress.unpause()
        for count in _run(make, waiting, processes):
            progress.update(count)
    return Staged(tuple(path for path, _ in jobs))


def _described(make: Make) -> str:
    function = getattr(make, "func", make)
    arguments = getattr(make, "args", ()), sorted(getattr(make, "keywords", {}).items())
    return f"{function.__module__}.{function.__qualname__}{arguments}"


def _run(make: Make, jobs: Sequence[tuple[pathlib.Path, tuple[Work, ...]]], processes: int) -> Iterator[int]:
    if processes <= 1 or len(jobs) <= 1:
        for path, part in jobs:
            yield _make_chunk(make, path, part)
        return
    # The children import this package; `tfds build` has it on the path only while it loads the builder.
    root = str(pathlib.Path(__file__).resolve().parents[1])
    if root not in sys.path:
        sys.path.append(root)
    # spawn: a fork of a process that holds TensorFlow or JAX threads can hang
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context)
    try:
        futures = [pool.submit(_make_chunk, make, path, part) for path, part in jobs]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError("a worker process died (out of memory?); run again to go on, with fewer --processes") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _make_chunk(make: Make, path: pathlib.Path, part: tuple[Work, ...]) -> int:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            for work in part:
                _write_work(make, work, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return len(part)


def _write_work(make: Make, work: Work, file: BinaryIO) -> None:
    """Appends the clips and rejections of `work`; a work that fails takes its clips back and leaves a rejection."""
    before = file.tell()
    try:
        for made in make(work.item):
            _write_rejection(made, file) if isinstance(made, Rejection) else _write_clip(made, work.split, file)
    except Exception as error:  # one bad file or tune must not end the build of ten thousand
        reason = str(error) if isinstance(error, UnusableError) else f"{type(error).__name__}: {error}"
        file.seek(before)
        file.truncate()
        _write_rejection(Rejection(work.name, reason), file)


def _write_rejection(rejection: Rejection, file: BinaryIO) -> None:
    file.write(json.dumps(dataclasses.asdict(rejection)).encode() + b"\n")


def _write_clip(clip: Clip, split: str, file: BinaryIO) -> None:
    # 2^15 is the scale of every reader: int16 / 32768 is exact in float32
    audio = np.clip(np.round(clip.audio * 32768.0), -32768, 32767).astype("<i2")
    truth = dataclasses.asdict(clip.truth) if clip.truth else None
    record = {"split": split, "id": clip.id, "captions": clip.captions, "tune": clip.tune, "source": clip.source}
    record |= {"licence": clip.licence, "truth": truth, "samples": len(audio)}
    record |= {"controls": controls.encode(clip.told).tolist()} if clip.told else {}
    file.write(json.dumps(record).encode() + b"\n")
    file.write(audio.tobytes())
