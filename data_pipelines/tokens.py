"""The tokenised data set: per clip the MuLan tokens of its music and of its captions, semantic tokens and latents, its
controls, and the lineage of what made them.

It is a TFDS data set under DATA_DIR/melody_tokens/NAME/5.0.0 (`tfds.builder_from_directory` reads it), and its metadata
name the parts (by id) and the geometry: training on tokens of other parts than the ones at hand is refused. The folder
`latents` in it is another one, of the same clips in the same order: latents, 80 times as many bytes, and again all that a
diffusion model may be told of a clip. The language model reads the first and the diffusion model the second, each with one
read per clip. Clips are in the order of the audio data set.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import read
from data_pipelines.sharded import DataSet, Writing
from melody_jax import config, storage
from melody_jax.codes import controls
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.storage import Path


class TokenExample(TypedDict):
    """One clip.

    id, family: of the clip and of its leading instrument ("" where unknown).
    mulan: int32 [Q], codes of the music. text: int32 [captions, Q], codes of each of its captions, at least one.
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


def writing(directory: Path, geometry: Geometry, counts: Mapping[str, int], size: int, made_of: Any) -> Writing:
    """The tokens and latents in `directory`, its version folder; the other arguments as of `sharded.Writing`."""
    return Writing(directory, read.TOKENS_VERSION, _sets(geometry), counts, size, made_of)


def finish(made: Writing, geometry: Geometry, lineage: Mapping[str, str], source: str) -> None:
    """Makes data sets of the files, once all are there: on one host.

    Raises:
        UserError: there is no clip at all.
    """
    facts = {"lineage": dict(lineage), "geometry": config.to_dict(geometry), "source": source}
    made.finish(facts, "Tokens and latents of clips of music; metadata.json names the parts that made them.")


def _sets(geometry: Geometry) -> tuple[DataSet, DataSet]:
    """Tokens, and below them latents."""

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
    both = {name: column for name, column in columns.items() if name not in ("id", "family")} | {"latents": latents}
    tokens, both = tfds.features.FeaturesDict(columns), tfds.features.FeaturesDict(both)
    return DataSet("melody_tokens", tokens), DataSet("melody_latents", both, read.LATENTS)


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


def read_tokens(directory: Path, split: str, start: int = 0, stop: int | None = None) -> Iterator[TokenExample]:
    """The examples [start, stop) of a split in their stored order, all by default; for evaluation, not for training."""
    columns, features = read.open_split(directory, split)
    latents, more = read.open_split(read.latents_directory(directory), split)
    numbers = range(len(columns))[start:stop]
    for row, other in zip(columns.read(numbers), latents.read(numbers), strict=True):
        example = features.deserialize_example_np(row) | more.deserialize_example_np(other)
        example["id"], example["family"] = example["id"].decode(), example["family"].decode()
        yield example
