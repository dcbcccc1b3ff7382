"""Tokens some of which a language model drew, made of true ones."""

import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tqdm

from data_pipelines import precompute, tokens
from data_pipelines.sharded import Chunk
from melody_jax.geometry import Geometry
from melody_jax.parallel.share import ALONE, Share
from melody_jax.storage import Path

Redraw = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def write_drawn(
    redraw: Redraw,
    true: Path,
    data_dir: str,
    name: str,
    lineage: Mapping[str, str],
    geometry: Geometry,
    how: str,
    batch_size: int,
    share: Share = ALONE,
) -> Path:
    """Makes the tokenised data set `name` of that in `true`, a version folder; hosts and files as of `precompute`.

    Of each clip of the training split a share, uniform in 0 to 1, of the semantic tokens is replaced by draws; everything else,
    and the other splits, stay as they are. What is replaced depends on the clip's number alone.

    Args:
        redraw: codes of the clips' captions [B, Q] (one of each clip's), their controls [B, controls], semantic codes [B, N],
            which of these to replace [B, N] and numbers [B] to semantic codes [B, N]. Always called with `batch_size` clips.
        lineage: {part's name: part's id} of what made the tokens, true and drawn.
        how: the settings of the draws.
        share: this host's.
    """

    def examples(chunk: Chunk, progress: tqdm.tqdm) -> Iterator[tokens.TokenExample]:
        return _examples(redraw, true, chunk, batch_size, progress)

    return precompute.write_tokens(
        examples, true, data_dir, name, lineage, geometry, batch_size, share, how, does="drawing, compiling"
    )


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
            replaced = np.stack([own.random() > own.random(semantic.shape[1]) for own in chance])
            drawn = redraw(np.stack(text), controls, semantic, replaced, numbers)
            for example, tokens_with_draws in zip(examples, drawn):
                example["semantic"] = tokens_with_draws.astype(np.int32)
        progress.set_description("drawing", refresh=False)
        yield from examples
        number += len(examples)
        progress.update(len(examples))
