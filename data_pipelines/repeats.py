"""Repeated sounds, found by the content of clips, whatever the names of their files."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable

from data_pipelines import staging
from data_pipelines.sources import Rejection
from melody_jax.storage import Path


@dataclasses.dataclass(frozen=True)
class Repeats:
    """What was found.

    Attributes:
        groups: for each chunk that is used, by its path, the name of a file of its group. Files that share a clip are one
            group, as are those whose names differ in their ending only (a.wav and a.mp3), and a group belongs to one split.
        rejections: a line for each file that is left out because another file has all of its sound, and for each file
            that is used but shares some, or its name.
    """

    groups: dict[Path, str]
    rejections: list[Rejection]


def find(chunks: Iterable[staging.Chunk]) -> Repeats:
    """Compares the clips and names of all chunks. Of files with the same sound the first is used."""
    parents: dict[str, str] = {}
    whole: dict[bytes, staging.Chunk] = {}
    owners: dict[bytes, staging.Chunk] = {}
    stems: dict[str, staging.Chunk] = {}
    groups: dict[Path, str] = {}
    rejections: list[Rejection] = []

    def head(name: str) -> str:
        while parents.get(name, name) != name:
            name = parents[name]
        return name

    for chunk in chunks:
        digests = [bytes.fromhex(clip["digest"]) for clip in chunk.clips()]
        if not digests:
            continue
        other = whole.setdefault(hashlib.sha256(b"".join(digests)).digest(), chunk)
        if other is not chunk:
            reason = f"the same sound as {other.work.name}"
            rejections.append(Rejection(chunk.work.name, reason, same_as=other.work.name))
            continue
        name = groups[chunk.path] = chunk.work.item.name
        sharing = [owner for digest in digests if (owner := owners.setdefault(digest, chunk)) is not chunk]
        for owner in sharing:
            parents[head(name)] = head(owner.work.item.name)
        if sharing:
            reason = f"{len(sharing)} of its clips sound as in {sharing[0].work.name}; both stand in one split"
            rejections.append(Rejection(chunk.work.name, reason, 0.0))
        alike = stems.setdefault(os.path.splitext(name)[0], chunk)
        if alike is not chunk:
            parents[head(name)] = head(alike.work.item.name)
            reason = f"called like {alike.work.name}, perhaps the same music: both stand in one split"
            rejections.append(Rejection(chunk.work.name, reason, 0.0))
    return Repeats({path: head(name) for path, name in groups.items()}, rejections)
