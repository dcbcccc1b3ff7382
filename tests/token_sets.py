"""Tokenised data sets of made-up clips."""

import itertools
from collections.abc import Callable, Iterable, Mapping

from data_pipelines import read, tokens
from melody_jax.geometry import Geometry
from melody_jax.storage import Path


def write_tokens(
    data_dir: str,
    name: str,
    splits: Mapping[str, Callable[[], Iterable[tokens.TokenExample]]],
    lineage: Mapping[str, str],
    geometry: Geometry,
    source: str = "",
) -> Path:
    """Writes the tokenised data set `name` and returns its version folder; the functions of `splits` are called twice."""
    directory = read.tokens_directory(data_dir, name)
    counts = {split: sum(1 for _ in examples()) for split, examples in splits.items()}
    writing = tokens.writing(directory, geometry, counts, 4096, [])
    writing.begin()
    given = {split: iter(examples()) for split, examples in splits.items()}
    for chunk in writing.chunks:
        writing.write(chunk, itertools.islice(given[chunk.split], chunk.stop - chunk.start))
    tokens.finish(writing, geometry, lineage, source)
    return directory
