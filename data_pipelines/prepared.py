"""What a data set will hold, before TensorFlow writes it. No TensorFlow here: it takes 0.5 GB."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from data_pipelines import inputs, staging
from data_pipelines.sources import Rejection, SoundFile
from melody_jax.storage import Path


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Everything the data set will hold, in chunks on disk.

    Attributes:
        chunks: of every split, in the order of the inputs.
        rejected: what was refused or is odd: clips and files.
        works: how many files or tunes there were.
        entries: the inputs; see `inputs`.
    """

    chunks: Mapping[str, tuple[staging.Chunk, ...]]
    rejected: tuple[Rejection, ...]
    works: int
    entries: list[dict[str, Any]]

    def content_hash(self) -> str:
        """sha256 over everything that will be stored: the identity of a data set."""
        digest = hashlib.sha256()
        for split, chunks in self.chunks.items():
            for chunk in chunks:
                for clip in chunk.clips():
                    del clip["at"]
                    digest.update(json.dumps([split, clip]).encode())
        return digest.hexdigest()

    def write_inputs(self, directory: Path) -> None:
        """Writes what it was made from into `directory`."""
        chunks = [chunk for chunks in self.chunks.values() for chunk in chunks]
        files = {chunk.work.item.name: chunk for chunk in chunks if isinstance(chunk.work.item, SoundFile)}
        inputs.write(directory, self.entries, files)
