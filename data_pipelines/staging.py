"""Clips made by all cores and kept on disk as chunks, so that a killed build goes on where it stopped.

Every piece of work has a chunk: a file that one process writes clip by clip, under a temporary name until it is
complete, so that no sound file is in memory as a whole. A chunk depends on its work alone: neither the number of
processes nor an interruption changes a byte. Its name is a hash of its work, so that a changed request redoes only what
changed. Hosts that share the disk or the bucket share the work, and each leaves a list of what its chunks hold, so that
later only a clip's own bytes are read from its chunk. No TensorFlow here.
"""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import mmap
import multiprocessing
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import tqdm

from data_pipelines import workers
from data_pipelines.clip import Clip
from data_pipelines.ffmpeg import UnreadError, UnusableError
from data_pipelines.records import IN_FLIGHT
from data_pipelines.sources import Rejection
from melody_jax import storage
from melody_jax.codes import controls
from melody_jax.errors import UserError
from melody_jax.files import whole_file
from melody_jax.parallel.share import ALONE, Share
from melody_jax.samples import to_int16
from melody_jax.storage import Path

# Part of every chunk's name: raise it when the form of chunks or the making of clips changes.
_FORM = 4
# The last line of a chunk: how many records it has, and the bytes of the list of them before this line.
_END = re.compile(rb'\{"end": \d+, "list": (\d+)\}\n\Z')
_END_BYTES = 64
_TICK_SECONDS = 0.3
# Pieces of work that wait in the queue for each process.
_AHEAD = 4
_MOST_DEATHS = 3
# What a maker raises where the fault may be the machine's, not the music's.
_MACHINE = (UnreadError, OSError, MemoryError)


@dataclasses.dataclass(frozen=True)
class Progress:
    """How much of its work's `amount` a maker has done."""

    done: int


Make = Callable[[Any], Iterator[Clip | Rejection | Progress]]


@dataclasses.dataclass(frozen=True)
class Work:
    """One piece of work: a file or a tune to render.

    Attributes:
        name: what a rejection calls it.
        item: what the maker makes clips of.
        split: of its clips; "" where that is decided when all chunks are made.
        amount: of work, in the progress bar's unit.
    """

    name: str
    item: Any
    split: str = ""
    amount: int = 1


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The finished clips and rejections of one piece of work.

    Attributes:
        listed: what it holds, where a list of that is at hand.
    """

    path: Path
    work: Work
    listed: memoryview | None = dataclasses.field(default=None, repr=False, compare=False)

    def records(self) -> Iterator[dict[str, Any]]:
        """Rejections, and clips as the data set stores them: without their sound, but with its `digest` and a place, `at`."""
        yield from json.loads(self.listing() if self.listed is None else bytes(self.listed))

    def listing(self) -> bytes:
        """Its records as one line of JSON, which stand at its end."""
        size = storage.size_of(self.path)
        last = storage.read_range(self.path, max(0, size - _END_BYTES), size)
        end = _END.search(last)
        if end is None:
            raise UserError(f"{self.path}: cut short; run the same command again")
        stop = size - len(end[0])
        return storage.read_range(self.path, stop - int(end[1]), stop)

    def clips(self) -> Iterator[dict[str, Any]]:
        """Without their sound."""
        return (record for record in self.records() if "reason" not in record)

    def clip(self, start: int, stop: int) -> dict[str, Any]:
        """The clip in these bytes, with its sound: `audio`, int16 [T]."""
        record, _, audio = storage.read_range(self.path, start, stop).partition(b"\n")
        return json.loads(record) | {"audio": np.frombuffer(audio, "<i2")}

    def rejections(self) -> list[Rejection]:
        """In terms of the work's own path: the chunk may have been made of another."""
        rejected = (record for record in self.records() if "reason" in record)
        return [
            Rejection(self.work.name, record["reason"], record["start"], again=record.get("again", False))
            for record in rejected
        ]


def make_chunks(
    work: Sequence[Work],
    make: Make,
    directory: Path,
    processes: int,
    unit: str,
    share: Share = ALONE,
) -> tuple[Chunk, ...]:
    """Makes all clips of `work` that have no chunk yet, with a progress bar; of several hosts each makes its share.

    Args:
        work: in the order of the data set.
        make: turns an item into clips; importable by a fresh process (a module's function, or a partial of one).
            Whatever it raises becomes a rejection of that item with the exception as the reason; where the fault may be the
            machine's, the item is tried again next time.
        directory: where the chunks lie; made if missing.
        processes: how many to use; 1 works in this process.
        unit: what the progress bar counts.
        share: this host's.

    Returns:
        the chunks of all hosts in the order of `work`.

    Raises:
        UserError: processes died (killed, or out of memory). What they had finished is kept. Or another host has other work.
        OSError: the disk is full, or refuses to be written to. What was finished is kept.
    """
    directory.mkdir(parents=True, exist_ok=True)
    chunks = tuple(Chunk(directory / name_of(item, make), item) for item in work)
    own = share.of(chunks)
    waiting = _missing(own, directory)
    bar = {"unit": unit, "desc": "preparing clips", "smoothing": 0.05, "disable": not waiting, "unit_scale": True}
    with tqdm.tqdm(total=sum(chunk.work.amount for chunk in own), **bar) as progress:
        progress.update(progress.total - sum(chunk.work.amount for chunk in waiting))
        progress.unpause()
        if processes <= 1 or len(waiting) <= 1:
            for chunk in waiting:
                write_chunk(chunk, make, progress.update)
        else:
            _run(make, waiting, processes, progress)
    lists = [directory / f"list-{number:05d}-of-{share.count:05d}" for number in range(share.count)]
    with (
        concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool,
        whole_file(lists[share.index]) as scratch,
        open(scratch, "wb") as file,
    ):
        for start in range(0, len(own), IN_FLIGHT):
            some = own[start : start + IN_FLIGHT]
            for chunk, listed in zip(some, pool.map(Chunk.listing, some), strict=True):
                file.write(b"%s %s\n" % (chunk.path.name.encode(), listed))
                if any(record.get("again") for record in json.loads(listed)):
                    chunk.path.unlink()
    share.barrier()
    return _listed(chunks, lists)


def remove_halves(directory: Path) -> None:
    """Removes what killed processes had begun of chunks, when no process makes any."""
    if isinstance(directory, pathlib.Path):
        for half in directory.glob(".chunk-*"):
            half.unlink()


def _missing(chunks: Sequence[Chunk], directory: Path) -> list[Chunk]:
    """Those that are not whole. Objects of a bucket are, so that one listing tells."""
    if isinstance(directory, pathlib.Path):
        return [chunk for chunk in chunks if not is_whole(chunk.path)]
    there = storage.files_below(directory)
    return [chunk for chunk in chunks if chunk.path.name not in there]


def _listed(chunks: Sequence[Chunk], lists: Sequence[Path]) -> tuple[Chunk, ...]:
    """The chunks with what the lists of all hosts say of each; on a disk the lists are mapped into memory."""
    found: dict[str, memoryview] = {}
    for path in lists:
        if not storage.size_of(path):
            continue
        content = _mapped(path) if isinstance(path, pathlib.Path) else path.read_bytes()
        for start, stop in itertools.pairwise([0, *(end.end() for end in re.finditer(b"\n", content))]):
            space = content.find(b" ", start)
            found[content[start:space].decode()] = memoryview(content)[space:stop]
    if found.keys() != {chunk.path.name for chunk in chunks}:
        raise UserError(f"{lists[0].parent}: the hosts do not see the same music; mount the same folder on all of them")
    return tuple(dataclasses.replace(chunk, listed=found[chunk.path.name]) for chunk in chunks)


def _mapped(path: pathlib.Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def name_of(work: Work, make: Make) -> str:
    """The name of a chunk: a hash of what decides its bytes.

    repr of frozen dataclasses and partials of functions is their content, once addresses are kept out of it.
    """
    function = getattr(make, "func", make)
    arguments = getattr(make, "args", ()), sorted(getattr(make, "keywords", {}).items())
    maker = f"{function.__module__}.{function.__qualname__}{arguments}"
    tag = hashlib.sha256(repr((_FORM, maker, work.item)).encode("utf-8", "backslashreplace")).hexdigest()
    return f"chunk-{tag[:32]}"


def _run(make: Make, waiting: Sequence[Chunk], processes: int, progress: tqdm.tqdm) -> None:
    """Makes all chunks with several processes. A process that a piece of work has killed is started again without that
    work."""
    # The children import this package; `tfds build` has it on the path only while it loads the builder.
    root = str(pathlib.Path(__file__).resolve().parents[1])
    if root not in sys.path:
        sys.path.append(root)
    left, deaths = list(waiting), 0
    while left:
        suspects = _run_pool(make, left, processes, progress)
        for chunk in suspects:
            if _run_pool(make, [chunk], 1, progress):
                deaths += 1
                if deaths > _MOST_DEATHS:
                    raise UserError(
                        "a worker process died (out of memory?); run again to go on, with fewer --processes"
                    )
                write_chunk(chunk, _killed)
        left = [chunk for chunk in left if not is_whole(chunk.path)] if suspects else []


def _run_pool(make: Make, chunks: Sequence[Chunk], processes: int, progress: tqdm.tqdm) -> list[Chunk]:
    """Makes chunks. Returns those that were in work when a process died."""
    done, before = multiprocessing.RawArray("q", len(chunks)), progress.n
    processes = min(processes, len(chunks))
    pool = workers.pool(processes, _begin, done)
    running: dict[concurrent.futures.Future, Chunk] = {}
    coming = iter(enumerate(chunks))
    try:
        while True:
            while len(running) < processes * _AHEAD and (job := next(coming, None)) is not None:
                running[pool.submit(_make_in_pool, make, *job)] = job[1]
            if not running:
                return []
            finished = concurrent.futures.wait(running, _TICK_SECONDS, concurrent.futures.FIRST_COMPLETED).done
            if (so_far := sum(done)) > progress.n - before:
                progress.update(before + so_far - progress.n)
            for future in finished:
                future.result()
                del running[future]
    except concurrent.futures.process.BrokenProcessPool:
        return [chunk for chunk in running.values() if not is_whole(chunk.path)]
    finally:
        pool.shutdown(cancel_futures=True)


_done: Any = None


def _begin(done: Any) -> None:
    """In a new process: keeps the counters that all processes share. Each chunk has its own, so that no lock is held
    when a process dies."""
    global _done
    _done = done


def _make_in_pool(make: Make, number: int, chunk: Chunk) -> None:
    def report(amount: int) -> None:
        _done[number] += amount

    write_chunk(chunk, make, report)


def _killed(item: Any) -> Iterator[Clip]:
    raise UnusableError("the process that reads it dies (out of memory, or a fault of the decoder)")
    yield from ()


def write_chunk(chunk: Chunk, make: Make, report: Callable[[int], Any] = lambda done: None) -> None:
    """Makes one chunk.

    Args:
        report: is told how much of the work's amount was done since it was told last.

    Raises:
        OSError: it cannot be written.
    """
    try:
        with whole_file(chunk.path) as scratch, open(scratch, "wb") as file:
            records = _write_work(make, chunk.work, file, report)
            listed = json.dumps(records).encode()
            # Instead of waiting for the disk, which takes longer than a small file's sound: see is_whole.
            file.write(listed + json.dumps({"end": len(records), "list": len(listed)}).encode() + b"\n")
    except OSError as error:
        advice = "what is finished is kept: mend that and run the same command again"
        raise OSError(error.errno, f"{error.strerror}; {advice}", str(chunk.path.parent)) from None


def is_whole(path: Path) -> bool:
    """Whether a chunk was written to its end; on a disk it may be shorter after a failure of the machine."""
    if not isinstance(path, pathlib.Path):
        return path.exists()
    try:
        with open(path, "rb") as file:
            file.seek(-min(_END_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return _END.search(file.read()) is not None
    except OSError:
        return False


def _write_work(make: Make, work: Work, file: BinaryIO, report: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Writes the clips of `work`. Returns what `Chunk.records` gives: if it fails, one rejection and no clip."""
    records: list[dict[str, Any]] = []
    reported = 0
    try:
        for made in make(work.item):
            if isinstance(made, Progress):
                new = min(made.done, work.amount)
                report(max(0, new - reported))
                reported = max(reported, new)
                continue
            records.append(_rejection(made) if isinstance(made, Rejection) else _write_clip(made, file))
    except _UnwritableError:
        raise
    except Exception as error:  # one bad file or tune must not end the build of ten thousand
        reason = str(error) if isinstance(error, UnusableError) else f"{type(error).__name__}: {error}"
        file.seek(0)
        file.truncate()
        records = [_rejection(Rejection(work.name, reason, again=isinstance(error, _MACHINE)))]
    report(work.amount - reported)
    return records


class _UnwritableError(OSError):
    """The chunk cannot be written: no fault of what it should hold."""


def _rejection(rejection: Rejection) -> dict[str, Any]:
    row = {"path": rejection.path, "reason": rejection.reason, "start": rejection.start}
    return row | ({"again": True} if rejection.again else {})


def _write_clip(clip: Clip, file: BinaryIO) -> dict[str, Any]:
    """Writes a line of JSON and the samples after it; returns the line's contents and the bytes `at` which both stand."""
    audio = to_int16(clip.audio).tobytes()
    truth = dataclasses.asdict(clip.truth) if clip.truth else None
    record = {
        "id": clip.id,
        "captions": clip.captions,
        "tune": clip.tune,
        "source": clip.source,
        "licence": clip.licence,
    }
    for text in record.values():
        "".join(text).encode()  # half a character must be this file's fault, not TFDS's
    digest = hashlib.blake2b(audio, digest_size=16).hexdigest()
    record |= {"truth": truth, "digest": digest}
    record |= {"controls": controls.encode(clip.told).tolist()} if clip.told else {}
    start = file.tell()
    try:
        file.write(json.dumps(record).encode() + b"\n")
        file.write(audio)
    except OSError as error:
        raise _UnwritableError(error.errno, error.strerror) from None
    return record | {"at": (start, file.tell())}
