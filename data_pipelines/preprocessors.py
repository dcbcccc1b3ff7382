"""From stored examples to what a stage trains on.

Each is a pure map from example to example. Its randomness comes from the example's own `seed` (see `record_source`), so
that the same example always gives the same result.

Lengths come from seqio's `sequence_length` ({feature: length}).
"""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from data_pipelines.text_vocabulary import TextVocabulary
from melody_jax.errors import UserError

Example = Mapping[str, tf.Tensor]
# A number for each kind of choice: two choices for one example must be independent draws.
_CROP, _CAPTION = 1, 2


def crop_audio(dataset: tf.data.Dataset, sequence_length: Mapping[str, int]) -> tf.data.Dataset:
    """`audio` [T] cut to sequence_length["audio"] samples, at a random place.

    Raises:
        UserError: the clips are shorter than that.
    """
    length = sequence_length["audio"]
    stored = _stored(dataset, "audio")
    _check_length("audio", length, stored)

    def crop(example: Example) -> Example:
        start = _below(example, _CROP, stored - length + 1)
        return {**example, "audio": _window(example["audio"], start, length)}

    return _map(dataset, crop)


def crop_aligned(
    dataset: tf.data.Dataset, sequence_length: Mapping[str, int], frames_per_token: int, levels: int = 1
) -> tf.data.Dataset:
    """`semantic` [N R] and the `latents` [L, D] below it, cut to sequence_length["semantic"] tokens at a random moment.

    Frame i of the result belongs to moment i // frames_per_token of the result: the cut is between two moments, each of
    R = `levels` tokens.

    Raises:
        UserError: the stored sequences are shorter, or the two lengths asked for do not belong together.
    """
    tokens, frames = sequence_length["semantic"], sequence_length["latents"]
    if frames * levels != tokens * frames_per_token:
        raise UserError(f"{tokens} tokens cover {tokens * frames_per_token // levels} latent frames, not {frames}")
    stored = _stored(dataset, "semantic")
    _check_length("semantic", tokens, stored)
    _check_length("latents", stored // levels * frames_per_token, _stored(dataset, "latents"))

    def crop(example: Example) -> Example:
        start = _below(example, _CROP, (stored - tokens) // levels + 1)
        latents = _window(example["latents"], start * frames_per_token, frames)
        return {**example, "semantic": _window(example["semantic"], start * levels, tokens), "latents": latents}

    return _map(dataset, crop)


def crop_semantic(dataset: tf.data.Dataset, sequence_length: Mapping[str, int], levels: int = 1) -> tf.data.Dataset:
    """`semantic` [N R] cut to sequence_length["semantic"] tokens, at a random moment of R = `levels` tokens.

    Raises:
        UserError: the stored sequences are shorter than that.
    """
    length = sequence_length["semantic"]
    stored = _stored(dataset, "semantic")
    _check_length("semantic", length, stored)

    def crop(example: Example) -> Example:
        start = levels * _below(example, _CROP, (stored - length) // levels + 1)
        return {**example, "semantic": _window(example["semantic"], start, length)}

    return _map(dataset, crop)


def choose_caption(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """`caption`: one of `captions`, by the example's seed."""

    def choose(example: Example) -> Example:
        captions = example["captions"]
        return {**example, "caption": captions[_below(example, _CAPTION, tf.shape(captions)[0])]}

    return _map(dataset, choose)


def choose_text(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """`text` [Q]: the codes of one caption of `text` [captions, Q], by the example's seed."""

    def choose(example: Example) -> Example:
        text = example["text"]
        return {**example, "text": text[_below(example, _CAPTION, tf.shape(text)[0])]}

    return _map(dataset, choose)


def tokenize_caption(
    dataset: tf.data.Dataset, sequence_length: Mapping[str, int], vocabulary: TextVocabulary
) -> tf.data.Dataset:
    """`text_tokens` int32 [W]: the ids of `caption`, cut or padded with 0 to sequence_length["text_tokens"]."""
    length = sequence_length["text_tokens"]

    def tokenize(example: Example) -> Example:
        return {**example, "text_tokens": vocabulary.padded_tf(example["caption"], length)}

    return _map(dataset, tokenize)


def _map(dataset: tf.data.Dataset, function: Callable[[Example], Example]) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _below(example: Example, choice: int, limit: int | tf.Tensor) -> tf.Tensor:
    """A number in [0, limit), drawn by the example's seed for this kind of choice."""
    seed: Any = tf.random.fold_in(example["seed"], choice)
    return tf.random.stateless_uniform([], seed, 0, tf.cast(limit, tf.int32), tf.int32)


def _window(values: tf.Tensor, start: tf.Tensor | int, length: int) -> tf.Tensor:
    return tf.ensure_shape(values[start : start + length], [length, *values.shape[1:]])


def _stored(dataset: tf.data.Dataset, name: str) -> int:
    """Length of feature `name` of every stored example."""
    spec: Any = dataset.element_spec
    return spec[name].shape[0]


def _check_length(name: str, wanted: int, stored: int) -> None:
    if stored < wanted:
        raise UserError(f"training wants {wanted} of each clip's {name}, but the data set holds only {stored}")
