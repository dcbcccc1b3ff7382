"""The seqio Task of every stage on a data set: source, pure preprocessors, output features."""

import functools
from typing import Any

import seqio
import tensorflow as tf

from data_pipelines import preprocessors, read
from data_pipelines.record_source import RecordSource
from data_pipelines.text_vocabulary import TextVocabulary
from melody_jax import graph
from melody_jax.codes import controls
from melody_jax.geometry import Geometry
from melody_jax.storage import Path

AUDIO_STAGES, TOKEN_STAGES = graph.READ_AUDIO, graph.READ_TOKENS
_AUDIO = seqio.ContinuousFeature(dtype=tf.int16)
_CONTROLS: Any = seqio.Feature(seqio.PassThroughVocabulary(max(controls.SIZES)), add_eos=False, dtype=tf.int32)


def register(
    name: str,
    geometry: Geometry,
    audio: Path | None = None,
    tokens: Path | None = None,
    tokenizer: str | None = None,
) -> dict[str, seqio.Task]:
    """Adds the Tasks `NAME_STAGE` to seqio's registry, replacing earlier ones of the same names.

    Args:
        name: letters, digits and _.
        geometry: gives the frames per token.
        audio: version folder of an audio data set: registers autoencoder, mulan, semantic and codes.
        tokens: version folder of a tokenised data set: registers lm and dpd.
        tokenizer: a tokenizer.json for the captions; None takes the pretrained text tower's.

    Returns:
        the Tasks by stage.
    """
    tasks = {}
    for stage in (*AUDIO_STAGES * (audio is not None), *TOKEN_STAGES * (tokens is not None)):
        full = f"{name}_{stage}"
        if full in seqio.TaskRegistry.names():
            seqio.TaskRegistry.remove(full)
        task = make_task(full, stage, audio if stage in AUDIO_STAGES else tokens, geometry, tokenizer)
        seqio.TaskRegistry.add_provider(full, task)
        tasks[stage] = task
    return tasks


def make_task(
    name: str, stage: str, directory: Path | None, geometry: Geometry, tokenizer: str | None = None
) -> seqio.Task:
    """The Task of `stage` on the data set in `directory`, unregistered.

    `get_dataset` needs sequence_length = {feature: length} of all output features; without "controls" an lm Task leaves them
    out.
    """
    fields, steps, features = _recipe(stage, geometry, tokenizer)
    if stage == "dpd" and directory is not None:
        directory = read.latents_directory(directory)
    return seqio.Task(
        name,
        source=RecordSource(str(directory), fields),
        preprocessors=steps,
        output_features=features,
        shuffle_buffer_size=None,  # the source shuffles
    )


def _recipe(stage: str, geometry: Geometry, tokenizer: str | None):
    """(fields to read, preprocessors, output features) of a stage."""
    if stage == "mulan":
        vocabulary = TextVocabulary(tokenizer)
        steps = [
            preprocessors.crop_audio,
            preprocessors.choose_caption,
            functools.partial(preprocessors.tokenize_caption, vocabulary=vocabulary),
        ]
        text = seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32)
        return ("audio", "captions"), steps, {"audio": _AUDIO, "text_tokens": text}
    codes = seqio.Feature(seqio.PassThroughVocabulary(geometry.mulan_codes), add_eos=False, dtype=tf.int32)
    condition = {"mulan": codes, "text": codes, "controls": _CONTROLS}
    if stage == "lm":
        crop = functools.partial(preprocessors.crop_semantic, levels=geometry.semantic_levels)
        steps = [crop, preprocessors.choose_text]
        features = {**condition, "semantic": _semantic(geometry)}
        return tuple(features), steps, features
    if stage == "dpd":
        rates = {"frames_per_token": geometry.frames_per_token, "levels": geometry.semantic_levels}
        crop = functools.partial(preprocessors.crop_aligned, **rates)
        latents = seqio.ContinuousFeature(dtype=tf.float16, rank=2)
        features = {**condition, "semantic": _semantic(geometry), "latents": latents}
        return tuple(features), [crop, preprocessors.choose_text], features
    return ("audio",), [preprocessors.crop_audio], {"audio": _AUDIO}


def _semantic(geometry: Geometry) -> Any:
    return seqio.Feature(seqio.PassThroughVocabulary(geometry.semantic_size), add_eos=False, dtype=tf.int32)
