"""Finished data sets on disk: their folders, their metadata, and their clips one by one."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipelines.clip import Clip, Truth
from data_pipelines.records import Records
from melody_jax import storage
from melody_jax.codes.controls import decode
from melody_jax.errors import UserError
from melody_jax.files import read_object
from melody_jax.samples import from_int16
from melody_jax.storage import Path

AUDIO_VERSION = "1.2.0"  # 1.1 had no downbeats
TOKENS_VERSION = "5.0.0"  # in 4.0 latents stood without the condition of their clips
LATENTS = "latents"
_AGAIN = "delete its folder and make it again"


def audio_directory(data_dir: str, name: str) -> Path:
    """Where `melody data` puts the data set `name`."""
    return storage.path(data_dir) / "melody_audio" / name / AUDIO_VERSION


def tokens_directory(data_dir: str, name: str) -> Path:
    """Where `melody tokenize` puts the tokenised data set `name`."""
    return storage.path(data_dir) / "melody_tokens" / name / TOKENS_VERSION


def latents_directory(directory: Path) -> Path:
    """The folder of latents of the tokenised data set in `directory`, which holds the tokens too."""
    return storage.path(directory) / LATENTS


def metadata(directory: Path) -> dict[str, Any]:
    """The metadata of the data set in `directory` (its version folder).

    Raises:
        UserError: there is no finished data set, or its metadata are damaged.
    """
    file = storage.path(directory) / "metadata.json"
    if not file.is_file():
        raise UserError(f"{directory}: no finished data set here; make it with melody data or melody tokenize")
    facts = read_object(file, f"{file}: gone meanwhile")
    if not facts.keys() & {"id", "lineage"}:
        raise UserError(f"{file} does not say what data set this is; {_AGAIN}")
    return facts


def counts(directory: Path) -> dict[str, int]:
    """How many examples each split has.

    Raises:
        UserError: there is no finished data set, or it is damaged.
    """
    metadata(directory)
    file = storage.path(directory) / "dataset_info.json"
    info = read_object(file, f"{file} is missing; {_AGAIN}")
    try:
        return {split["name"]: sum(int(length) for length in split["shardLengths"]) for split in info["splits"]}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file} does not list splits and their lengths; {_AGAIN}") from None


def open_split(directory: Path, split: str) -> tuple[Records, Any]:
    """The records of `split`, and the TFDS features that decode them.

    Raises:
        UserError: no such data set or split, or damaged files.
    """
    import tensorflow_datasets as tfds

    counts(directory)
    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:  # whatever TFDS makes of damaged files
        raise UserError(f"{directory} is damaged ({type(error).__name__}: {error}); {_AGAIN}") from None
    if split not in builder.info.splits:
        raise UserError(f"{directory}: it has no clips in split {split!r}, only in {', '.join(builder.info.splits)}")
    info, index = builder.info.splits[split], storage.path(directory) / f"{split}.index"
    return Records([str(path) for path in info.filepaths], info.shard_lengths, index), builder.info.features


def read_clips(directory: Path, split: str, limit: int | None = None) -> Iterator[Clip]:
    """The clips of a split in their stored order, audio as float32 [T]; for evaluation, not for training."""
    records, features = open_split(directory, split)
    for record in records.read(range(len(records))[:limit]):
        yield clip_of(features.deserialize_example_np(record))


def summary(directory: Path) -> str:
    """A few lines for people: how much there is, from where, under which licences, and what was refused."""
    facts = metadata(directory)
    clips, tunes = facts["clips"], facts["tunes"]
    lines = [f"{sum(clips.values()) * facts['seconds'] / 3600:.2f} h of music in {directory}"]
    lines += [f"  {split}: {clips[split]} clips of {tunes[split]} tunes or files" for split in clips]
    lines += [f"  licence: {licence or 'not stated'}" for licence in facts["licences"]]
    remarks = facts.get("remarks", 0)
    if facts["rejected"] or remarks:
        odd = f", {remarks} places in others left out or odd" if remarks else ""
        lines.append(f"  {facts['rejected']} rejected{odd}, see {directory.parent / 'rejected.jsonl'}")
    return "\n".join(lines)


def clip_of(example: dict[str, Any]) -> Clip:
    """The clip that an example of an audio data set holds."""
    text = {name: _text(example[name]) for name in ("id", "tune", "source", "licence")}
    numbers = {name: float(example["truth"][name]) for name in ("tempo", "downbeat")}
    truth = {name: _text(value) for name, value in example["truth"].items() if name not in ("notes", *numbers)}
    truth["notes"] = tuple(
        (on, length, int(pitch), int(part)) for on, length, pitch, part in example["truth"]["notes"].tolist()
    )
    return Clip(
        audio=from_int16(example["audio"]),
        captions=_text(example["captions"]),
        truth=Truth(**numbers, **truth) if truth["family"] else None,
        told=decode(example["controls"]),
        **text,
    )


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return tuple(item.decode() for item in np.asarray(value).tolist())
