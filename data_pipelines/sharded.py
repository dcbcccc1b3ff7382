"""TFDS data sets whose files several hosts write beside one another, none reading what another wrote.

Files have their last names from the beginning, so that at the end nothing is copied or renamed. A folder is a data set from
the moment when it has its metadata; until then each file has a note beside it, which is all that one host reads of it.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from data_pipelines import records
from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.files import UNFINISHED, write_whole
from melody_jax.storage import Path


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One of the data sets that are written together: its TFDS name, what an example holds, and its folder below the first."""

    name: str
    features: tfds.features.FeaturesDict
    folder: str = ""

    def record(self, example: Mapping[str, Any]) -> bytes:
        """The example as it is stored, its fields sorted: TFDS's own way gives other bytes in every process."""
        encoded = self.features.encode_example({field: example[field] for field in self.features})
        return self._serializer.get_tf_example(encoded).SerializeToString(deterministic=True)

    @functools.cached_property
    def _serializer(self) -> ExampleSerializer:
        specs: Any = self.features.get_serialized_info()
        return ExampleSerializer(specs)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Examples [start, stop) of a split: one file of each data set, `number` of the split's files."""

    split: str
    number: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Writing:
    """Data sets of the same examples in the same order that are being made.

    Attributes:
        directory: version folder of the first.
        version: of all.
        sets: the first is finished last.
        counts: examples of each split.
        size: examples of a file.
        made_of: what the examples follow from; files of other things are removed.
    """

    directory: Path
    version: str
    sets: Sequence[DataSet]
    counts: Mapping[str, int]
    size: int
    made_of: Any

    @property
    def chunks(self) -> list[Chunk]:
        """All chunks of all splits."""
        return [
            Chunk(split, number, start, min(start + self.size, count))
            for split, count in self.counts.items()
            for number, start in enumerate(range(0, count, self.size))
        ]

    def begin(self) -> None:
        """Makes the folder; what is in it stays if it is of the same making."""
        mark, text = self.directory / UNFINISHED, json.dumps([self.made_of, self.size], sort_keys=True)
        if not mark.is_file() or mark.read_text() != text:
            storage.remove_folder(self.directory)
            for each in self.sets:
                (self.directory / each.folder).mkdir(parents=True, exist_ok=True)
            write_whole(mark, text)

    def has(self, chunk: Chunk) -> bool:
        """Whether the files of `chunk` are written."""
        return self._note(chunk).is_file()

    def write(self, chunk: Chunk, examples: Iterable[Mapping[str, Any]]) -> None:
        """Writes the files of `chunk`, and then a note of them: where their records end, and a digest.

        An example has the fields of all data sets.
        """
        digest = hashlib.sha256()
        ends: dict[str, list[int]] = {each.name: [] for each in self.sets}
        with contextlib.ExitStack() as stack:
            places = [
                stack.enter_context(storage.written(self.directory / each.folder / self._file(each.name, chunk)))
                for each in self.sets
            ]
            with contextlib.ExitStack() as open_files:
                files = [open_files.enter_context(tf.io.TFRecordWriter(str(place))) for place in places]
                for example in examples:
                    for each, file in zip(self.sets, files, strict=True):
                        record = each.record(example)
                        file.write(record)
                        digest.update(record)
                        before = ends[each.name][-1] if ends[each.name] else 0
                        ends[each.name].append(before + len(record) + records.AROUND)
            for place in places:
                with open(place, "rb") as file:
                    os.fsync(file.fileno())
        write_whole(self._note(chunk), json.dumps({"digest": digest.hexdigest(), **ends}))

    def finish(self, facts: Mapping[str, Any], description: str) -> None:
        """Makes data sets of the files, once all are there: on one host.

        Args:
            facts: metadata.json of each; `id`, a hash of all records, is added unless it is there.

        Raises:
            UserError: there is no example at all.
        """
        if not self.chunks:
            raise UserError(f"{self.directory}: there are no clips")
        with concurrent.futures.ThreadPoolExecutor(records.IN_FLIGHT) as pool:
            notes = list(pool.map(lambda chunk: json.loads(self._note(chunk).read_text()), self.chunks))
        id_ = hashlib.sha256("".join(note["digest"] for note in notes).encode()).hexdigest()
        for each in reversed(self.sets):
            folder: Any = self.directory / each.folder
            splits: list[tfds.core.SplitInfo] = []
            template = tfds.core.ShardedFileTemplate(
                data_dir=epath.Path(folder), dataset_name=each.name, split=None, filetype_suffix="tfrecord"
            )
            for split in dict.fromkeys(chunk.split for chunk in self.chunks):
                ends = [note[each.name] for chunk, note in zip(self.chunks, notes) if chunk.split == split]
                records.write_index(folder / f"{split}.index", np.concatenate(ends))
                lengths, held = [len(of_file) for of_file in ends], sum(of_file[-1] for of_file in ends)
                splits.append(
                    tfds.core.SplitInfo(
                        name=split,
                        shard_lengths=lengths,
                        num_bytes=held,
                        filename_template=template.replace(split=split),
                    )
                )
            tfds.folder_dataset.write_metadata(
                data_dir=epath.Path(folder),
                features=each.features,
                split_infos=splits,
                version=self.version,
                filename_template=template,
                check_data=False,
                description=description,
            )
            write_whole(folder / "metadata.json", json.dumps({"id": id_, **facts}))
        with concurrent.futures.ThreadPoolExecutor(records.IN_FLIGHT) as pool:
            list(pool.map(lambda chunk: self._note(chunk).unlink(), self.chunks))
        (self.directory / UNFINISHED).unlink()

    def _file(self, name: str, chunk: Chunk) -> str:
        total = -(-self.counts[chunk.split] // self.size)
        return f"{name}-{chunk.split}.tfrecord-{chunk.number:05d}-of-{total:05d}"

    def _note(self, chunk: Chunk) -> Path:
        return self.directory / f"{chunk.split}-{chunk.number:05d}.json"
