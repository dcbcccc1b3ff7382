"""The tokenised data set: per clip the MuLan tokens of its music and of its captions, semantic tokens and latents, its
controls, and the lineage of what made them.

It is a TFDS data set under DATA_DIR/melody_tokens/NAME/2.1.0 (`tfds.builder_from_directory` reads it), and its metadata
name the parts (by id) and the geometry: training on tokens of other parts than the ones at hand is refused.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypedDict

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import read, writing
from melody_jax import config
from melody_jax.codes import controls
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry


class TokenExample(TypedDict):
    """One clip.

    id, family: of the clip and of its leading instrument ("" where unknown).
    mulan: int32 [Q], codes of the music. text: int32 [C, Q], codes of each of its C >= 1 captions.
    semantic: int32 [N R], the R levels of a moment beside one another. latents: float16 [L, D].
    controls: int32 [K], the codes of codes/controls.py.
    """

    id: str
    family: str
    mulan: np.ndarray
    text: np.ndarray
    semantic: np.ndarray
    latents: np.ndarray
    controls: np.ndarray


class MelodyTokens(writing.Builder, skip_registration=True):
    """Writes the data set; `write_tokens` is how to use it.

    Args:
        splits: examples of each split, given anew by each call.
        facts: of the metadata.
        geometry: gives the shapes.
    """

    name = "melody_tokens"
    VERSION = tfds.core.Version(read.TOKENS_VERSION)

    def __init__(
        self, *, splits: Mapping[str, Callable[[], Iterable[TokenExample]]], facts: dict, geometry: Geometry, **kwargs
    ):
        self._splits, self._facts, self._geometry = splits, facts, geometry
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        geometry, raw = self._geometry, tfds.features.Encoding.BYTES
        latents = (geometry.clip_frames, geometry.latent_channels)
        features = {
            "id": tfds.features.Text(),
            "family": tfds.features.Text(),
            "mulan": tfds.features.Tensor(shape=(geometry.mulan_tokens,), dtype=np.int32, encoding=raw),
            "text": tfds.features.Tensor(shape=(None, geometry.mulan_tokens), dtype=np.int32, encoding=raw),
            "semantic": tfds.features.Tensor(shape=(geometry.clip_semantic,), dtype=np.int32, encoding=raw),
            "latents": tfds.features.Tensor(shape=latents, dtype=np.float16, encoding=raw),
            "controls": tfds.features.Tensor(shape=(len(controls.SLOTS),), dtype=np.int32, encoding=raw),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Tokens and latents of clips of music; the metadata name the parts that made them.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(self._facts),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        del dl_manager  # nothing is downloaded
        digest, generators = hashlib.sha256(), {}
        for split, examples in self._splits.items():
            count = 0
            for example in examples():
                count += 1
                for value in example.values():
                    digest.update(value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes())
            if count:
                generators[split] = self._generate_examples(examples())
        metadata: Any = self.info.metadata
        metadata["id"] = digest.hexdigest()
        return generators

    def _generate_examples(self, examples: Iterable[TokenExample]) -> Iterator[tuple[str, TokenExample]]:
        for example in examples:
            yield example["id"], example


def write_tokens(
    data_dir: str,
    name: str,
    splits: Mapping[str, Callable[[], Iterable[TokenExample]]],
    lineage: Mapping[str, str],
    geometry: Geometry,
    source: str = "",
) -> pathlib.Path:
    """Writes the tokenised data set `name` with all its splits; it appears complete or not at all.

    Args:
        splits: for each split a function that gives its examples; called twice.
        lineage: {part's name: part's id} of everything that made them.
        geometry: of those parts.
        source: id of the audio data set.

    Returns:
        its version folder.

    Raises:
        UserError: `name` exists already, or there is no example at all.
    """
    facts = {"lineage": dict(lineage), "geometry": config.to_dict(geometry), "source": source}
    builder = MelodyTokens(
        splits=splits,
        facts=facts,
        geometry=geometry,
        data_dir=data_dir,
        config=tfds.core.BuilderConfig(name=name),
    )
    if builder.is_prepared():
        raise UserError(f"{builder.data_path}: a tokenised data set of this name exists; delete it first")
    if not any(next(iter(examples()), None) for examples in splits.values()):
        raise UserError(f"tokenised data set {name}: there are no clips")
    builder.download_and_prepare()
    return pathlib.Path(builder.data_path)


@dataclasses.dataclass(frozen=True)
class TokenSet:
    """A tokenised data set on disk: its folder, the ids of the parts that made it, their geometry."""

    directory: pathlib.Path
    lineage: dict[str, str]
    geometry: Geometry


def open_tokens(directory: pathlib.Path, expected: Mapping[str, str] | None = None) -> TokenSet:
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
    return TokenSet(pathlib.Path(directory), facts["lineage"], config.from_dict(Geometry, facts["geometry"]))


def read_tokens(directory: pathlib.Path, split: str, limit: int | None = None) -> Iterator[TokenExample]:
    """The examples of a split in their stored order; for evaluation, not for training."""
    records, features = read.open_split(directory, split)
    for record in records.read(range(len(records))[:limit]):
        example = features.deserialize_example_np(record)
        example["id"], example["family"] = example["id"].decode(), example["family"].decode()
        yield example
