"""Runs trained parts over an audio data set once and keeps what they say: tokens and latents of every clip."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from data_pipelines import read, replacing, tokens
from data_pipelines.clip import from_int16
from data_pipelines.records import Records
from melody_jax import config
from melody_jax.codes import controls
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry

Encode = Callable[[np.ndarray, Sequence[Sequence[str]]], Mapping[str, Any]]
# Batches that are staged as one file: the work that a kill can cost.
_BATCHES_PER_CHUNK = 4


def precompute(
    encode: Encode,
    audio: pathlib.Path,
    data_dir: str,
    name: str,
    lineage: Mapping[str, str],
    geometry: Geometry,
    batch_size: int = 16,
    shard: int = 0,
    shards: int = 1,
    barrier: Callable[[], None] = lambda: None,
) -> pathlib.Path:
    """Makes the tokenised data set `name` from the audio data set in `audio`.

    Chunks of clips are dealt out to the hosts in turn and staged beside the result (on a disk that all hosts share);
    what is staged is not done again, and the first host puts everything together.

    Args:
        encode: float32 [B, T] and the captions of the B clips to {"mulan" int [B, Q], "text" B times int [C, Q] (C of
            that clip), "semantic" int [B, N], "latents" [B, L, D]}. Always called with `batch_size` clips; a last batch
            is filled up by repeating its last clip, without captions. A clip that has none is given the codes of its
            music as the codes of its text.
        audio: version folder of an audio data set whose clips have the geometry's length.
        lineage: {part's name: part's id} of what `encode` uses.
        shard, shards: this host and how many there are.
        barrier: waits for all hosts.

    Returns:
        the version folder of the tokenised data set. An existing one of the same parts and audio is kept, any other is made
        anew, and a line says why. While another process writes it, this one waits.

    Raises:
        UserError: the clips do not fit the geometry, or the audio data set changed meanwhile.
    """
    directory = read.tokens_directory(data_dir, name)
    with replacing.sole_writer(directory) if shard == 0 else contextlib.nullcontext():
        barrier()  # the others begin when the first host has the lock, for all of them
        return _precompute(encode, audio, directory, lineage, geometry, batch_size, shard, shards, barrier)


def _precompute(
    encode: Encode,
    audio: pathlib.Path,
    directory: pathlib.Path,
    lineage: Mapping[str, str],
    geometry: Geometry,
    batch_size: int,
    shard: int,
    shards: int,
    barrier: Callable[[], None],
) -> pathlib.Path:
    facts = read.metadata(audio)
    stored = (facts["sample_rate"], facts["seconds"])
    if stored != (geometry.sample_rate, geometry.clip_seconds):
        raise UserError(f"{audio}: clips of {stored[1]:g} s at {stored[0]} Hz, but the parts take others")
    reason = _out_of_date(directory, facts["id"], lineage, geometry)
    if reason is None:
        return directory
    if reason and shard == 0:
        print(f"{directory}: {reason}; made anew")
    made_of = [read.TOKENS_VERSION, dict(sorted(lineage.items())), facts["id"], config.to_dict(geometry), batch_size]
    staging = directory.parent / f"staging-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]}"
    staging.mkdir(parents=True, exist_ok=True)
    counts = read.counts(audio)
    _encode_all(encode, audio, counts, staging, batch_size, shard, shards)
    barrier()
    if shard == 0:
        if read.metadata(audio)["id"] != facts["id"]:
            raise UserError(f"{audio} was made anew while it was tokenised; run the same command again")
        splits = {split: lambda split=split: _staged(staging, split) for split in counts}
        data_dir, name = str(directory.parents[2]), directory.parent.name
        with replacing.set_aside(directory):
            tokens.write_tokens(data_dir, name, splits, lineage, geometry, source=facts["id"])
        for folder in directory.parent.glob("staging-*"):  # of earlier audio and parts too
            shutil.rmtree(folder)
    barrier()
    return directory


def _out_of_date(directory: pathlib.Path, source: str, lineage: Mapping[str, str], geometry: Geometry) -> str | None:
    """Why the tokens in `directory` must be made anew; "" where there are none, None where they need not."""
    if not (directory / "metadata.json").is_file():
        return ""
    facts = read.metadata(directory)
    other = [part for part, id_ in lineage.items() if facts["lineage"].get(part) != id_]
    if other:
        return f"made with another {' and '.join(other)}"
    if facts["source"] != source:
        return "its audio data set has changed"
    return None if facts["geometry"] == config.to_dict(geometry) else "made for another geometry"


def _encode_all(
    encode: Encode,
    audio: pathlib.Path,
    counts: Mapping[str, int],
    staging: pathlib.Path,
    batch_size: int,
    shard: int,
    shards: int,
) -> None:
    """Stages this host's chunks of every split."""
    size = batch_size * _BATCHES_PER_CHUNK
    chunks = [(split, start) for split, count in counts.items() for start in range(0, count, size)][shard::shards]
    total = sum(min(size, counts[split] - start) for split, start in chunks)
    with tqdm.tqdm(total=total, unit=" clips", desc="tokenizing") as progress:
        opened: dict[str, tuple[Records, Any]] = {}
        for split, start in chunks:
            stop = min(start + size, counts[split])
            path = staging / f"{split}-{start:09d}.npz"
            if not path.exists():
                if split not in opened:
                    opened[split] = read.open_split(audio, split)
                _write(path, _encode_chunk(encode, *opened[split], start, stop, batch_size))
            progress.update(stop - start)


def _encode_chunk(encode: Encode, records: Records, features, start: int, stop: int, batch_size: int):
    parts = []
    for first in range(start, stop, batch_size):
        data = records.read(np.arange(first, min(first + batch_size, stop)))
        examples = [features.deserialize_example_np(record) for record in data]
        clips = from_int16(np.stack([example["audio"] for example in examples]))
        filled = np.concatenate([clips, np.repeat(clips[-1:], batch_size - len(clips), axis=0)])
        captions = [tuple(text.decode() for text in example["captions"]) for example in examples]
        encoded = encode(filled, captions + [()] * (batch_size - len(clips)))
        encoded = {key: value[: len(clips)] for key, value in encoded.items()}
        texts = [text if len(text) else music[None] for text, music in zip(encoded["text"], encoded["mulan"])]
        parts.append(
            {
                "id": np.array([example["id"].decode() for example in examples]),
                "family": np.array([example["truth"]["family"].decode() for example in examples]),
                "mulan": encoded["mulan"].astype(np.int32),
                "text": np.concatenate(texts).astype(np.int32),  # the clips' captions one after another
                "texts": np.array([len(text) for text in texts]),
                "semantic": encoded["semantic"].astype(np.int32),
                "latents": encoded["latents"].astype(np.float16),
                "controls": np.stack([controls.encode(read.clip_of(example).controls) for example in examples]),
            }
        )
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _staged(staging: pathlib.Path, split: str) -> Iterator[tokens.TokenExample]:
    for path in sorted(staging.glob(f"{split}-*.npz")):
        with np.load(path) as arrays:
            columns: dict[str, Any] = {name: arrays[name] for name in arrays.files}
        columns["text"] = np.split(columns["text"], np.cumsum(columns.pop("texts"))[:-1])
        for row in range(len(columns["id"])):
            example: Any = {name: column[row] for name, column in columns.items()}
            example["id"], example["family"] = str(example["id"]), str(example["family"])
            yield example
