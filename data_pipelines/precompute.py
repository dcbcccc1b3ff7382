"""Runs trained parts over an audio data set once and stores the results: tokens and latents of every clip."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from data_pipelines import read, replacing, tokens
from data_pipelines.records import Records
from data_pipelines.sharded import Chunk, Writing
from melody_jax import config, storage
from melody_jax.codes import controls
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.parallel.share import ALONE, Share
from melody_jax.samples import from_int16
from melody_jax.storage import Path

Encode = Callable[[np.ndarray, Sequence[Sequence[str]]], Mapping[str, Any]]
# Batches in a file: the most work that a killed process loses.
_FEWEST_BATCHES, _MOST_BATCHES = 4, 256


def precompute(
    encode: Encode,
    audio: Path,
    data_dir: str,
    name: str,
    lineage: Mapping[str, str],
    geometry: Geometry,
    batch_size: int,
    share: Share = ALONE,
) -> Path:
    """Makes the tokenised data set `name` from the audio data set in `audio`.

    Chunks of clips are dealt out to the hosts in turn. Each writes its own files of the result (on a disk that all hosts
    share); files that exist are not made again, and the first host only adds the metadata.

    Args:
        encode: float32 [B, T] and the captions of the B clips to {"mulan" int [B, Q], "text" B times int [captions, Q] (C of
            that clip), "semantic" int [B, N], "latents" [B, L, D]}. Always called with `batch_size` clips; a last batch
            is filled up by repeating its last clip, without captions. A clip that has none is given the codes of its
            music as the codes of its text.
        audio: version folder of an audio data set whose clips have the geometry's length.
        lineage: {part's name: part's id} of what `encode` uses.
        share: this host's.

    Returns:
        the version folder of the tokenised data set. An existing one of the same parts and audio is kept; any other is
        replaced, and a line says why. While another process writes it, this one waits.

    Raises:
        UserError: the clips do not fit the geometry, latents are not finite, or the audio data set changed meanwhile.
    """
    facts = read.metadata(audio)
    stored = (facts["sample_rate"], facts["seconds"])
    if stored != (geometry.sample_rate, geometry.clip_seconds):
        raise UserError(f"{audio}: clips of {stored[1]:g} s at {stored[0]} Hz, but the parts take others")
    opened: dict[str, tuple[Records, Any]] = {}

    def examples(chunk: Chunk, progress: tqdm.tqdm) -> Iterator[tokens.TokenExample]:
        if chunk.split not in opened:
            opened[chunk.split] = read.open_split(audio, chunk.split)
        return _encoded(encode, *opened[chunk.split], chunk, batch_size, progress)

    return write_tokens(
        examples, audio, data_dir, name, lineage, geometry, batch_size, share, does="tokenizing, compiling"
    )


def write_tokens(
    examples: Callable[[Chunk, tqdm.tqdm], Iterator[tokens.TokenExample]],
    source: Path,
    data_dir: str,
    name: str,
    lineage: Mapping[str, str],
    geometry: Geometry,
    batch_size: int,
    share: Share = ALONE,
    how: str = "",
    *,
    does: str,
) -> Path:
    """Makes the tokenised data set `name` of the examples, which follow from the data set in `source`; hosts, files and errors as
    of `precompute`.

    Args:
        examples: those of a chunk of `source`, which are counted on the bar as they are made.
        source: version folder of the data set.
        how: settings that the examples depend on.
        does: what the bar says.
    """
    with replacing.sole_writer(read.tokens_directory(data_dir, name)) if share.first else contextlib.nullcontext():
        share.barrier()  # the others begin when the first host has the lock, for all of them
        directory = read.tokens_directory(data_dir, name)  # the process that had the lock may have made it
        id_ = read.metadata(source)["id"]
        made_from = f"{id_}, {how}" if how else id_
        reason = _out_of_date(directory, made_from, lineage, geometry, how)
        if reason is None:
            return directory
        share.barrier()  # until all hosts have seen what was there
        if reason and share.first:
            print(f"{directory}: {reason}; made anew")
            storage.remove_folder(directory)
        writing = _writing(directory.with_name(read.TOKENS_VERSION), source, made_from, lineage, geometry, batch_size)
        if share.first:
            writing.begin()
        share.barrier()
        _write_all(examples, writing, share, does)
        share.barrier()
        if share.first:
            if read.metadata(source)["id"] != id_:
                raise UserError(f"{source} was made anew while it was tokenised; run the same command again")
            tokens.finish(writing, geometry, lineage, made_from)
        share.barrier()
    return writing.directory


def _writing(
    directory: Path, source: Path, made_from: str, lineage: Mapping[str, str], geometry: Geometry, batch_size: int
) -> Writing:
    """The files to make: about 64, each of whole batches, so that many hosts can share the work and no file is too
    large."""
    counts = read.counts(source)
    batches = min(max(sum(counts.values()) // (64 * batch_size), _FEWEST_BATCHES), _MOST_BATCHES)
    made_of = [dict(sorted(lineage.items())), made_from, config.to_dict(geometry), batch_size]
    return tokens.writing(directory, geometry, counts, batches * batch_size, made_of)


def _out_of_date(directory: Path, source: str, lineage: Mapping[str, str], geometry: Geometry, how: str) -> str | None:
    """Why the tokens in `directory` must be made again; "" if there are none, None if they are up to date."""
    if not (directory / "metadata.json").is_file():
        return ""
    facts = read.metadata(directory)
    other = [part for part, id_ in lineage.items() if facts["lineage"].get(part) != id_]
    if other:
        return f"made with another {' and '.join(other)}"
    if facts["source"] != source:
        return (
            "its audio data set has changed" if not how else "the tokens it is made from or its settings have changed"
        )
    return None if facts["geometry"] == config.to_dict(geometry) else "made for another geometry"


def _write_all(
    examples: Callable[[Chunk, tqdm.tqdm], Iterator[tokens.TokenExample]], writing: Writing, share: Share, does: str
) -> None:
    """Writes this host's chunks of every split."""
    chunks = share.of(writing.chunks)
    with tqdm.tqdm(total=sum(chunk.stop - chunk.start for chunk in chunks), unit=" clips", desc=does) as progress:
        for chunk in chunks:
            if writing.has(chunk):
                progress.update(chunk.stop - chunk.start)
            else:
                writing.write(chunk, examples(chunk, progress))


def _encoded(
    encode: Encode, records: Records, features, chunk: Chunk, batch_size: int, progress: tqdm.tqdm
) -> Iterator[tokens.TokenExample]:
    """The examples of a chunk, encoded a batch at a time; the next batch is read meanwhile."""
    stored = map(features.deserialize_example_np, records.read(range(chunk.start, chunk.stop)))
    while examples := list(itertools.islice(stored, batch_size)):
        missing = batch_size - len(examples)
        clips = from_int16(np.stack([example["audio"] for example in examples]))
        filled = np.concatenate([clips, np.repeat(clips[-1:], missing, axis=0)])
        captions = [tuple(text.decode() for text in example["captions"]) for example in examples]
        encoded = encode(filled, captions + [()] * missing)
        progress.set_description("tokenizing", refresh=False)
        for row, example in enumerate(examples):
            mulan, text = encoded["mulan"][row], encoded["text"][row]
            latents = encoded["latents"][row].astype(np.float16)
            if not np.isfinite(latents).all():
                name = example["id"].decode()
                raise UserError(f"the latents of clip {name} are no numbers: its autoencoder is broken; train it again")
            yield tokens.TokenExample(
                id=example["id"].decode(),
                family=example["truth"]["family"].decode(),
                mulan=mulan.astype(np.int32),
                text=(text if len(text) else mulan[None]).astype(np.int32),
                semantic=encoded["semantic"][row].astype(np.int32),
                latents=latents,
                controls=controls.encode(read.clip_of(example).controls),
            )
        progress.update(len(examples))
