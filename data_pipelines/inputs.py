"""The list of files that a data set was made from: kept beside it, compared with what is there now, and used to reuse
clips.

`inputs.jsonl` in the folder of a data set has a line for every file that was found: name, size, time of change and a hash of
its captions. If the same request finds other files, the data set is made again: clips of unchanged files are taken from
the old data set, all other files are decoded.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from data_pipelines import read, staging
from data_pipelines.clip import Clip
from data_pipelines.sources import Listed, Rejection
from melody_jax.files import read_lines, whole_file
from melody_jax.storage import Path

FILE = "inputs.jsonl"
_NAMED = 3


def entries_of(listed: Iterable[Listed], unread: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """For every file found, what tells whether it has changed.

    Args:
        unread: path -> reason of files that could not be read this time, which therefore count as changed next time.
    """
    entries = []
    for item in listed:
        if isinstance(item, Rejection):
            entries.append({"name": item.path, "unusable": item.reason})
            continue
        text = repr((item.captions, item.licence, item.start, item.end)).encode("utf-8", "backslashreplace")
        about = {"captions": hashlib.sha256(text).hexdigest()[:16], "tags": _hash(repr(item.tags))}
        about |= {"unusable": unread[item.path]} if unread and item.path in unread else {}
        entries.append({"name": item.name, "path": item.path, "size": item.size, "modified": item.modified, **about})
    return entries


def hash_of(entries: Sequence[Mapping[str, Any]]) -> str:
    """The identity of a list of inputs. Names count, folders do not."""
    return _hash(json.dumps([{k: v for k, v in entry.items() if k != "path"} for entry in entries]))


def write(directory: Path, entries: Sequence[Mapping[str, Any]], chunks: Mapping[str, staging.Chunk]) -> None:
    """Writes the list into the folder of a data set, with what `reuse` needs.

    Args:
        chunks: by the name of their entry; only those whose clips all stand in the data set.
    """
    with whole_file(directory / FILE) as scratch, open(scratch, "w", encoding="ascii") as file:
        for entry in entries:
            row: dict[str, Any] = dict(entry)
            chunk = chunks.get(entry["name"])
            if chunk is not None:
                made = list(chunk.records())
                row["chunk"] = chunk.path.name
                row["clips"] = sum("reason" not in record for record in made)
                row["rejected"] = [[record["reason"], record["start"]] for record in made if "reason" in record]
            file.write(json.dumps(row) + "\n")


def changes(directory: Path, entries: Sequence[Mapping[str, Any]]) -> str:
    """What differs between the inputs of the data set in `directory` and `entries`, in words; "" where nothing does."""
    known = read.metadata(directory).get("inputs")
    if known == hash_of(entries) or (known is None and not entries):
        return ""
    old = {row["name"]: row for row in read_lines(directory / FILE)}
    if not old and known != hash_of([]):
        return "it does not say what it was made from"
    new = {entry["name"]: entry for entry in entries}
    groups = {
        "added": [name for name in new if name not in old],
        "gone": [name for name in old if name not in new],
        "changed": [
            f"{name} ({_difference(old[name], new[name])})" for name in new if _difference(old.get(name), new[name])
        ],
    }
    said = []
    for what, names in groups.items():
        shown = ", ".join(ascii(name)[1:-1] for name in names[:_NAMED])
        if names:
            said.append(f"{len(names)} {what}: {shown}{', ...' if len(names) > _NAMED else ''}")
    return "; ".join(said) or "its files stand in another order"


def _difference(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    if old is None:
        return ""
    names = {
        "size": "size",
        "modified": "time of change",
        "captions": "captions",
        "tags": "tags",
        "unusable": "usable or not",
    }
    return ", ".join(text for key, text in names.items() if old.get(key) != new.get(key))


def reuse(directory: Path, chunks: Iterable[staging.Chunk]) -> int:
    """Restores chunks from the finished data set in `directory`. Returns how many."""
    rows = {row["chunk"]: row for row in read_lines(directory / FILE) if "chunk" in row}
    wanted = {
        chunk.path.name: chunk for chunk in chunks if chunk.path.name in rows and not staging.is_whole(chunk.path)
    }
    places = _places(directory) if any(rows[name]["clips"] for name in wanted) else {}
    opened = {split: read.open_split(directory, split) for split in read.counts(directory)}
    count = 0
    for name, chunk in wanted.items():
        row, found = rows[name], sorted(places.get(tune_of(rows[name]["name"]), ()))
        if len(found) != row["clips"]:
            continue
        chunk.path.parent.mkdir(parents=True, exist_ok=True)
        staging.write_chunk(chunk, lambda item, row=row, found=found: _again(opened, row, found))
        count += 1
    return count


def tune_of(name: str) -> str:
    """The `tune` of clips from the file `name`, which may not be valid UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _again(opened: Mapping[str, Any], row: Mapping[str, Any], found: Sequence[tuple]) -> Iterator[Clip | Rejection]:
    for _, split, index in found:
        records, features = opened[split]
        yield read.clip_of(features.deserialize_example_np(next(records.read([index]))))
    for reason, start in row["rejected"]:
        yield Rejection(row["path"], reason, start)


def _places(directory: Path) -> dict[str, list[tuple[int, str, int]]]:
    """By tune: (number in the tune, split, number of the record) of its clips."""
    places: dict[str, list[tuple[int, str, int]]] = {}
    for split in read.counts(directory):
        records, features = read.open_split(directory, split)
        for index, record in enumerate(records.read(range(len(records)))):
            example = features.deserialize_example_np(record)
            number = int(example["id"].decode().rpartition("#")[2])
            places.setdefault(example["tune"].decode(), []).append((number, split, index))
    return places


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
