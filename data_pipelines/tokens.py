"""The tokenised data set: per clip the MuLan tokens of its music and of its captions, semantic tokens and latents, its
controls, and the lineage of what made them.

It is a TFDS data set under DATA_DIR/melody_tokens/NAME/4.0.0 (`tfds.builder_from_directory` reads it), and its metadata
name the parts (by id) and the geometry: training on tokens of other parts than the ones at hand is refused. The folder
`latents` in it is another one, of the same clips in the same order: semantic tokens (again) and latents, 80 times as many
bytes. The language model reads the first and the diffusion model the second, each with one read per clip. Clips are in
the order of the audio data set.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypedDict

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from data_pipelines import read, records
from melody_jax import config, storage
from melody_jax.codes import controls
from melody_jax.errors import UserError
from melody_jax.files import UNFINISHED, write_whole
from melody_jax.geometry import Geometry
from melody_jax.storage import Path

_FOLDERS = {"melody_tokens": "", "melody_latents": read.LATENTS}


class TokenExample(TypedDict):
    """One clip.

    id, family: of the clip and of its leading instrument ("" where unknown).
    mulan: int32 [Q], codes of the music. text: int32 [captions, Q], codes of each of its C >= 1 captions.
    semantic: int32 [N R], the R levels of a moment beside one another. latents: float16 [L, D].
    controls: int32 [controls], the codes of codes/controls.py.
    """

    id: str
    family: str
    mulan: np.ndarray
    text: np.ndarray
    semantic: np.ndarray
    latents: np.ndarray
    controls: np.ndarray


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Clips [start, stop) of a split: one file of each data set, `number` of the split's files."""

    split: str
    number: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Writing:
    """A tokenised data set that is being made: hosts write its files beside one another, none reads what another wrote.

    Files have their final names from the start, so that nothing is copied or renamed at the end. The folder becomes a
    data set when its metadata are written.

    Attributes:
        directory: its version folder.
        geometry: gives the shapes.
        counts: clips of each split.
        size: clips of a file.
        made_of: what the tokens are made from; files made from something else are removed.
    """

    directory: Path
    geometry: Geometry
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
        """Makes the folder; its files are kept if they were made from the same parts and data."""
        mark, text = self.directory / UNFINISHED, json.dumps([self.made_of, self.size], sort_keys=True)
        if not mark.is_file() or mark.read_text() != text:
            storage.remove_folder(self.directory)
            (self.directory / read.LATENTS).mkdir(parents=True)
            write_whole(mark, text)

    def has(self, chunk: Chunk) -> bool:
        """Whether the files of `chunk` are written."""
        return self._note(chunk).is_file()

    def write(self, chunk: Chunk, examples: Iterable[TokenExample]) -> None:
        """Writes the files of `chunk`, then a note with the ends of their records and a digest."""
        digest, sets = hashlib.sha256(), _features(self.geometry)
        ends: dict[str, list[int]] = {name: [] for name in sets}
        with contextlib.ExitStack() as stack:
            paths = {name: self.directory / _FOLDERS[name] / self._file(name, chunk) for name in sets}
            places = {name: stack.enter_context(storage.written(path)) for name, path in paths.items()}
            with contextlib.ExitStack() as open_files:
                files = {
                    name: open_files.enter_context(tf.io.TFRecordWriter(str(place))) for name, place in places.items()
                }
                for example in examples:
                    for name, features in sets.items():
                        record = features.serialize_example({field: example[field] for field in features})
                        files[name].write(record)
                        digest.update(record)
                        ends[name].append((ends[name] or [0])[-1] + len(record) + records.AROUND)
            for place in places.values():
                with open(place, "rb") as file:
                    os.fsync(file.fileno())
        write_whole(self._note(chunk), json.dumps({"digest": digest.hexdigest(), **ends}))

    def finish(self, lineage: Mapping[str, str], source: str) -> None:
        """Makes a data set of the files once all are written; called on one host.

        Raises:
            UserError: there is no clip at all.
        """
        if not self.chunks:
            raise UserError(f"{self.directory}: there are no clips")
        with concurrent.futures.ThreadPoolExecutor(records.IN_FLIGHT) as pool:
            notes = list(pool.map(lambda chunk: json.loads(self._note(chunk).read_text()), self.chunks))
        id_ = hashlib.sha256("".join(note["digest"] for note in notes).encode()).hexdigest()
        for name, features in reversed(_features(self.geometry).items()):  # the tokens last
            folder: Any = self.directory / _FOLDERS[name]
            splits: list[tfds.core.SplitInfo] = []
            template = tfds.core.ShardedFileTemplate(
                data_dir=epath.Path(folder), dataset_name=name, split=None, filetype_suffix="tfrecord"
            )
            for split in dict.fromkeys(chunk.split for chunk in self.chunks):
                ends = [note[name] for chunk, note in zip(self.chunks, notes) if chunk.split == split]
                records.write_index(folder / f"{split}.index", np.concatenate(ends))
                lengths, held = [len(each) for each in ends], sum(each[-1] for each in ends)
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
                features=features,
                split_infos=splits,
                version=read.TOKENS_VERSION,
                filename_template=template,
                check_data=False,
                description="Tokens and latents of clips of music; metadata.json names the parts that made them.",
            )
            facts = {"lineage": dict(lineage), "geometry": config.to_dict(self.geometry), "source": source, "id": id_}
            write_whole(folder / "metadata.json", json.dumps(facts))
        with concurrent.futures.ThreadPoolExecutor(records.IN_FLIGHT) as pool:
            list(pool.map(lambda chunk: self._note(chunk).unlink(), self.chunks))
        (self.directory / UNFINISHED).unlink()

    def _file(self, name: str, chunk: Chunk) -> str:
        total = -(-self.counts[chunk.split] // self.size)
        return f"{name}-{chunk.split}.tfrecord-{chunk.number:05d}-of-{total:05d}"

    def _note(self, chunk: Chunk) -> Path:
        return self.directory / f"{chunk.split}-{chunk.number:05d}.json"


def _features(geometry: Geometry) -> dict[str, tfds.features.FeaturesDict]:
    """What an example of each of the two data sets holds, by their names."""

    def tensor(*shape: int | None, dtype: Any = np.int32) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES)

    semantic = tensor(geometry.clip_semantic)
    columns = {
        "id": tfds.features.Text(),
        "family": tfds.features.Text(),
        "mulan": tensor(geometry.mulan_tokens),
        "text": tensor(None, geometry.mulan_tokens),
        "semantic": semantic,
        "controls": tensor(len(controls.SLOTS)),
    }
    latents = tensor(geometry.clip_frames, geometry.latent_channels, dtype=np.float16)
    return {
        "melody_tokens": tfds.features.FeaturesDict(columns),
        "melody_latents": tfds.features.FeaturesDict({"semantic": semantic, "latents": latents}),
    }


@dataclasses.dataclass(frozen=True)
class TokenSet:
    """A tokenised data set on disk: its folder, the ids of the parts that made it, their geometry."""

    directory: Path
    lineage: dict[str, str]
    geometry: Geometry


def open_tokens(directory: Path, expected: Mapping[str, str] | None = None) -> TokenSet:
    """The tokenised data set in `directory` (its version folder).

    Args:
        expected: {part's name: part's id}; each must be what made the tokens.

    Raises:
        UserError: there is none, or other parts made it.
    """
    facts = read.metadata(directory)
    if "lineage" not in facts:
        raise UserError(f"{directory}: not a tokenised data set; make one with melody tokenize")
    for part, wanted in (expected or {}).items():
        made_by = facts["lineage"].get(part, "none")
        if made_by != wanted:
            raise UserError(
                f"{directory}: made with {part} {made_by[:12]}, but the one at hand is {wanted[:12]}; "
                "run melody tokenize again"
            )
    return TokenSet(storage.path(directory), facts["lineage"], config.from_dict(Geometry, facts["geometry"]))


def read_tokens(directory: Path, split: str, limit: int | None = None) -> Iterator[TokenExample]:
    """The examples of a split in their stored order; for evaluation, not for training."""
    columns, features = read.open_split(directory, split)
    latents, more = read.open_split(read.latents_directory(directory), split)
    numbers = range(len(columns))[:limit]
    for row, other in zip(columns.read(numbers), latents.read(numbers)):
        example = features.deserialize_example_np(row) | more.deserialize_example_np(other)
        example["id"], example["family"] = example["id"].decode(), example["family"].decode()
        yield example
