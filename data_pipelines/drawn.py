"""Tokens some of which a language model drew, made of true ones."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tqdm

from data_pipelines import read, replacing, tokens
from data_pipelines.sharded import Chunk
from melody_jax import config, storage
from melody_jax.geometry import Geometry
from melody_jax.parallel.share import ALONE, Share
from melody_jax.storage import Path

Redraw = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
CLIPS_A_FILE = 256


def write_drawn(
    redraw: Redraw,
    true: Path,
    directory: Path,
    lineage: Mapping[str, str],
    geometry: Geometry,
    how: str,
    batch_size: int,
    share: Share = ALONE,
) -> Path:
    """Makes the tokenised data set in `directory` of that in `true`, both version folders.

    Of each clip of the training split a share, uniform in 0 to 1, of the semantic tokens is replaced by draws; everything else,
    and the other splits, stay as they are. What is replaced depends on the clip's number alone. An interrupted run goes on where
    it stopped; a data set that was made in the same way is kept.

    Args:
        redraw: codes of the clips' captions [B, Q] (one of each clip's), their controls [B, controls], semantic codes [B, N] and
            numbers [B] to other semantic codes [B, N]. Always called with `batch_size` clips.
        lineage: {part's name: part's id} of what made the tokens, true and drawn.
        how: the settings of the draws.
        share: this host's.
    """
    source = f"{read.metadata(true)['id']}, {how}"
    with replacing.sole_writer(directory) if share.first else contextlib.nullcontext():
        share.barrier()
        if (directory / "metadata.json").is_file():
            facts = read.metadata(directory)
            if (facts["lineage"], facts["source"]) == (dict(lineage), source):
                return directory
        share.barrier()  # until all hosts have seen what was there
        made_of = [dict(sorted(lineage.items())), source, config.to_dict(geometry), batch_size]
        writing = tokens.writing(directory, geometry, read.counts(true), CLIPS_A_FILE, made_of)
        if share.first:
            if (directory / "metadata.json").is_file():
                storage.remove_folder(directory)
            writing.begin()
        share.barrier()
        chunks = [chunk for chunk in share.of(writing.chunks) if not writing.has(chunk)]
        with tqdm.tqdm(
            total=sum(chunk.stop - chunk.start for chunk in chunks), unit=" clips", desc="drawing"
        ) as progress:
            for chunk in chunks:
                writing.write(chunk, _examples(redraw, true, chunk, batch_size, progress))
        share.barrier()
        if share.first:
            tokens.finish(writing, geometry, lineage, source)
        share.barrier()
    return directory


def _examples(
    redraw: Redraw, true: Path, chunk: Chunk, batch_size: int, progress: tqdm.tqdm
) -> Iterator[tokens.TokenExample]:
    stored = tokens.read_tokens(true, chunk.split, chunk.start, chunk.stop)
    number = chunk.start
    while examples := list(itertools.islice(stored, batch_size)):
        if chunk.split == "train":
            numbers = np.arange(number, number + batch_size)
            chance = [np.random.default_rng(each) for each in numbers]
            clips = [*examples, *[examples[-1]] * (batch_size - len(examples))]
            text = [clip["text"][own.integers(len(clip["text"]))] for clip, own in zip(clips, chance, strict=True)]
            controls, semantic = (np.stack([clip[field] for clip in clips]) for field in ("controls", "semantic"))
            drawn = redraw(np.stack(text), controls, semantic, numbers)
            for row, (example, own) in enumerate(zip(examples, chance)):
                share = own.random()
                replaced = own.random(semantic.shape[1]) < share
                example["semantic"] = np.where(replaced, drawn[row], semantic[row]).astype(np.int32)
        yield from examples
        number += len(examples)
        progress.update(len(examples))
