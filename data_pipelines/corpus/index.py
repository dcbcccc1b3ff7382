"""The parsed corpus on disk: read once by all cores, then loaded in a second; every piece knows its tune and split."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re

import numpy as np
import tqdm

from data_pipelines.corpus import scores, sources
from data_pipelines.corpus.theory import Key
from data_pipelines.workers import pool
from melody_jax import storage
from melody_jax.files import json_lines, whole_file, write_whole
from melody_jax.storage import Path

SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
_FORMAT = 3  # raise it when a change of the readers makes older indices wrong
_GENERIC = 8  # more pieces than this under one title mean that the title says nothing ("Kyrie", "Quick Step")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A piece, the tune it is a version of, and the split in which that tune stands."""

    piece: scores.Piece
    tune: str
    split: str


def load(folder: str | os.PathLike, restricted: bool = False, workers: int | None = None) -> list[Entry]:
    """The corpus, read from `folder` and built there first where it is missing (a minute of two cores).

    Args:
        folder: where the index lies; created where missing.
        restricted: also the collections whose licence is non-commercial or unclear.
        workers: processes for building; all cores by default.

    Raises:
        ModuleNotFoundError: music21 is not installed.
    """
    root = sources.corpus_root()
    chosen = sources.chosen(restricted)
    path = storage.path(folder) / f"corpus-{_stamp(root, chosen)}.npz"
    if not path.exists():
        build(path, root, chosen, workers)
    with storage.fetched(path) as file, np.load(file, allow_pickle=False) as data:
        rows = json.loads(str(data["pieces"]))
        notes, offsets = data["notes"], data["offsets"]
    pieces = []
    for row, start, end in zip(rows, offsets[:-1], offsets[1:], strict=True):
        key = Key(*row["key"]) if row["key"] else None
        piece = scores.Piece(**row | {"key": key, "marks": tuple(row["marks"]), "notes": notes[start:end]})
        pieces.append(piece)
    return with_tunes(pieces)


def build(path: Path, root: pathlib.Path, chosen, workers: int | None = None) -> None:
    """Reads the chosen collections with `workers` processes; writes the index, and what was left out beside it."""
    jobs = [(c, file) for c in chosen for file in sorted((root / c.name).glob(c.pattern))]
    jobs.sort(key=lambda job: (-job[1].stat().st_size, str(job[1])))
    pieces, rejected = [], []
    with pool(workers or os.cpu_count() or 1, _silence) as processes:
        results = processes.map(_read, jobs, chunksize=4)
        for good, bad in tqdm.tqdm(results, "reading the corpus", len(jobs), unit="file", mininterval=1):
            pieces += good
            rejected += bad
    pieces.sort(key=lambda piece: piece.source)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {f.name: getattr(piece, f.name) for f in dataclasses.fields(piece) if f.name != "notes"}
        | {"key": [piece.key.tonic, piece.key.mode] if piece.key else None}
        for piece in pieces
    ]
    offsets = np.cumsum([0] + [len(piece.notes) for piece in pieces])
    write_whole(path.with_suffix(".rejected.jsonl"), json_lines(sorted(rejected, key=lambda row: row["source"])))
    arrays = {"notes": np.concatenate([piece.notes for piece in pieces]), "offsets": offsets}
    with whole_file(path) as scratch, open(scratch, "wb") as file:
        np.savez_compressed(file, pieces=np.array(json.dumps(rows)), **arrays)


def _read(job):
    return scores.read_file(*job)


def _silence() -> None:
    """symusic and verovio print to the process's standard streams, which a reader process does not need."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _stamp(root: pathlib.Path, chosen) -> str:
    version = (root.parent / "_version.py").read_text(encoding="utf-8")
    text = json.dumps([_FORMAT, re.findall(r"['\"]([\d.]+)['\"]", version)[:1], [c.name for c in chosen]])
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def with_tunes(pieces: list[scores.Piece]) -> list[Entry]:
    """The pieces with their tunes: those that share a mark are one tune, named and split by a hash of its marks."""
    holders: dict[str, list[int]] = {}
    for number, piece in enumerate(pieces):
        for mark in piece.marks:
            holders.setdefault(mark, []).append(number)
    leader = list(range(len(pieces)))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for mark, members in holders.items():
        if mark.startswith("title:") and len(members) > _GENERIC:
            continue
        for member in members[1:]:
            low, high = sorted((find(members[0]), find(member)))
            leader[high] = low
    marks: dict[int, list[str]] = {}
    for number, piece in enumerate(pieces):
        marks.setdefault(find(number), []).extend(piece.marks or (piece.source,))
    entries = []
    for number, piece in enumerate(pieces):
        first = find(number)
        digest = hashlib.sha256(min(marks[first]).encode()).hexdigest()
        slug = re.sub(r"[^a-z0-9]+", "-", pieces[first].title.lower()).strip("-")[:40]
        entries.append(Entry(piece, f"{slug}-{digest[:8]}", split_of(digest)))
    return entries


def split_of(digest: str) -> str:
    """The split of a tune, by the first 8 hexadecimal digits of its hash."""
    share = int(digest[:8], 16) / 2**32
    for split, size in SPLITS.items():
        if share < size:
            return split
        share -= size
    return split
