"""Clips made by all cores and staged on disk, so that a killed build goes on where it stopped.

Every piece of work has a chunk: a file that one process writes clip by clip, under a temporary name until it is
complete, so that no sound file is in memory as a whole. A chunk depends on its work alone: neither the number of
processes nor an interruption changes a byte. Its name is a hash of its work, so that a changed plan redoes only what
changed. Hosts that share the disk share the work, and each leaves a list of what its chunks hold, so that later only the
sound of a clip is read from its chunk. No TensorFlow here.
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

from data_pipelines.clip import Clip
from data_pipelines.ffmpeg import UnreadError, UnusableError
from data_pipelines.sources import Rejection
from melody_jax.codes import controls
from melody_jax.errors import UserError
from melody_jax.files import whole_file
from melody_jax.samples import to_int16

# Part of every chunk's name: raise it when the staged form or the making of clips changes.
_FORM = 3
_END = re.compile(rb'\{"end": \d+\}\n\Z')
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
        split: of its clips; "" where that is decided when all is staged.
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

    path: pathlib.Path
    work: Work
    listed: memoryview | None = dataclasses.field(default=None, repr=False, compare=False)

    def records(self) -> Iterator[dict[str, Any]]:
        """Rejections, and clips as the data set stores them: without their sound, but with its `digest` and a place, `at`."""
        if self.listed is not None:
            yield from json.loads(bytes(self.listed))
            return
        with open(self.path, "rb") as file:
            at = 0
            while "end" not in (record := json.loads(file.readline())):
                if "samples" in record:
                    file.seek(2 * record.pop("samples"), os.SEEK_CUR)
                    record["at"] = at
                at = file.tell()
                yield record

    def clips(self) -> Iterator[dict[str, Any]]:
        """Without their sound."""
        return (record for record in self.records() if "reason" not in record)

    def clip(self, at: int) -> dict[str, Any]:
        """The clip that is there, with its sound: `audio`, int16 [T]."""
        with open(self.path, "rb") as file:
            file.seek(at)
            record = json.loads(file.readline())
            return record | {"audio": np.frombuffer(file.read(2 * record["samples"]), "<i2")}

    def rejections(self) -> list[Rejection]:
        """In terms of the work's own path: the sound may have been staged from another."""
        rejected = (record for record in self.records() if "reason" in record)
        return [
            Rejection(self.work.name, record["reason"], record["start"], again=record.get("again", False))
            for record in rejected
        ]


def stage(
    work: Sequence[Work],
    make: Make,
    directory: pathlib.Path,
    processes: int,
    unit: str,
    shard: int = 0,
    shards: int = 1,
    barrier: Callable[[], None] = lambda: None,
) -> tuple[Chunk, ...]:
    """Makes all clips of `work` that are not staged yet, with a progress bar; of several hosts each makes its share.

    Args:
        work: in the order of the data set.
        make: turns an item into clips; importable by a fresh process (a module's function, or a partial of one).
            Whatever it raises becomes a rejection of that item with the exception as the reason; where the fault may be the
            machine's, the item is tried again next time.
        directory: where the chunks lie; made if missing.
        processes: how many to use; 1 works in this process.
        unit: what the progress bar counts.
        shard, shards: this host and how many there are.
        barrier: waits for all hosts.

    Returns:
        the chunks of all hosts in the order of `work`.

    Raises:
        UserError: processes died (killed, or out of memory). What they had finished is kept. Or another host has other work.
        OSError: the disk is full, or refuses to be written to. What was finished is kept.
    """
    directory.mkdir(parents=True, exist_ok=True)
    chunks = tuple(Chunk(directory / name_of(item, make), item) for item in work)
    own = chunks[shard::shards]
    waiting = [chunk for chunk in own if not is_whole(chunk.path)]
    bar = {"unit": unit, "desc": "preparing clips", "smoothing": 0.05, "disable": not waiting, "unit_scale": True}
    with tqdm.tqdm(total=sum(chunk.work.amount for chunk in own), **bar) as progress:
        progress.update(progress.total - sum(chunk.work.amount for chunk in waiting))
        progress.unpause()
        if processes <= 1 or len(waiting) <= 1:
            for chunk in waiting:
                write_chunk(chunk, make, progress.update)
        else:
            _run(make, waiting, processes, progress)
    lists = [directory / f"list-{number:05d}-of-{shards:05d}" for number in range(shards)]
    with whole_file(lists[shard]) as scratch, open(scratch, "wb") as file:
        for chunk in own:
            records = list(chunk.records())
            file.write(f"{chunk.path.name} {json.dumps(records)}\n".encode())
            if any(record.get("again") for record in records):
                chunk.path.unlink()
    barrier()
    return _listed(chunks, lists)


def _listed(chunks: Sequence[Chunk], lists: Sequence[pathlib.Path]) -> tuple[Chunk, ...]:
    """The chunks with what the lists of all hosts say of each; the lists are mapped into memory."""
    found: dict[str, memoryview] = {}
    for path in lists:
        if not path.stat().st_size:
            continue
        with open(path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for start, stop in itertools.pairwise([0, *(end.end() for end in re.finditer(b"\n", content))]):
            space = content.find(b" ", start)
            found[content[start:space].decode()] = memoryview(content)[space:stop]
    if found.keys() != {chunk.path.name for chunk in chunks}:
        raise UserError(f"{lists[0].parent}: the hosts do not see the same music; mount the same folder on all of them")
    return tuple(dataclasses.replace(chunk, listed=found[chunk.path.name]) for chunk in chunks)


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
    # spawn: a fork of a process that holds TensorFlow or JAX threads can hang
    context = multiprocessing.get_context("spawn")
    done, before = context.RawArray("q", len(chunks)), progress.n
    processes = min(processes, len(chunks))
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, _begin, (done,))
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
    temporary = chunk.path.with_name(f".{chunk.path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            count = _write_work(make, chunk.work, file, report)
            # Instead of waiting for the disk, which takes longer than a small file's sound: see is_whole.
            file.write(json.dumps({"end": count}).encode() + b"\n")
        os.replace(temporary, chunk.path)
    except OSError as error:
        advice = "what is finished is kept: mend that and run the same command again"
        raise OSError(error.errno, f"{error.strerror}; {advice}", str(chunk.path.parent)) from None
    finally:
        temporary.unlink(missing_ok=True)


def is_whole(path: pathlib.Path) -> bool:
    """Whether a chunk was written to its end; after a failure of the machine it may be shorter."""
    try:
        with open(path, "rb") as file:
            file.seek(-min(32, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return _END.search(file.read()) is not None
    except OSError:
        return False


def _write_work(make: Make, work: Work, file: BinaryIO, report: Callable[[int], Any]) -> int:
    """Writes the clips and rejections of `work`. If it fails, its clips are removed and a rejection is written."""
    count = reported = 0
    try:
        for made in make(work.item):
            if isinstance(made, Progress):
                new = min(made.done, work.amount)
                report(max(0, new - reported))
                reported = max(reported, new)
                continue
            _put(_rejection(made) if isinstance(made, Rejection) else _clip(made), file)
            count += 1
    except _UnwritableError:
        raise
    except Exception as error:  # one bad file or tune must not end the build of ten thousand
        reason = str(error) if isinstance(error, UnusableError) else f"{type(error).__name__}: {error}"
        file.seek(0)
        file.truncate()
        count = 1
        _put(_rejection(Rejection(work.name, reason, again=isinstance(error, _MACHINE))), file)
    report(work.amount - reported)
    return count


class _UnwritableError(OSError):
    """The chunk cannot be written: no fault of what it should hold."""


def _put(data: bytes, file: BinaryIO) -> None:
    try:
        file.write(data)
    except OSError as error:
        raise _UnwritableError(error.errno, error.strerror) from None


def _rejection(rejection: Rejection) -> bytes:
    row = {"path": rejection.path, "reason": rejection.reason, "start": rejection.start}
    row |= {"again": True} if rejection.again else {}
    return json.dumps(row).encode() + b"\n"


def _clip(clip: Clip) -> bytes:
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
    record |= {"truth": truth, "digest": digest, "samples": len(audio) // 2}
    record |= {"controls": controls.encode(clip.told).tolist()} if clip.told else {}
    return json.dumps(record).encode() + b"\n" + audio
