"""Our tokenised data sets in T5X: the functions that configs/t5x/*.gin bind. Nothing here needs T5X itself."""

from collections.abc import Callable
from typing import Any

import seqio
import tensorflow as tf

from data_pipelines import batches, tasks, tokens
from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.train.stage import Stage

PREFIX = "melody"


def token_task(stage: Stage, directory: str) -> seqio.Task:
    """The Task "melody_STAGE" on a tokenised data set, in seqio's registry.

    Args:
        stage: lm or dpd.
        directory: version folder of the tokenised data set.

    Raises:
        UserError: there is none, or its geometry is not the stage's.
    """
    found = tokens.open_tokens(storage.path(directory)).geometry
    if found != stage.geometry:
        raise UserError(f"{directory} has {found}, but {stage.name} is configured for {stage.geometry}")
    return tasks.register(PREFIX, stage.geometry, tokens=storage.path(directory))[stage.name]


def lengths(stage: Stage) -> dict[str, int]:
    """T5X's `task_feature_lengths`."""
    return batches.feature_lengths(stage)


def train_batches(
    config: Any, shard: int, shards: int, feature_converter_cls: Callable[..., seqio.FeatureConverter]
) -> tf.data.Dataset:
    """T5X's `get_dataset_fn`: the batches of `melody train`, endless, each epoch with an order, crops and captions of its own.

    T5X's own function repeats the first epoch, and draws lots for a Mixture, which here keeps its rates exactly.

    Args:
        config: t5x.utils.DatasetConfig; its seed None is 0.
        shard, shards: this host's number and the number of hosts.
        feature_converter_cls: as the Task's stage has it.

    Raises:
        UserError: no such split, hosts that do not divide the batch, or a Mixture with Tasks of others.
    """
    del feature_converter_cls  # the features say which one it is
    task = seqio.maybe_get_mixture_or_task(config.mixture_or_task_name)
    size, seed = config.batch_size, config.seed or 0
    return batches.endless(task, config.task_feature_lengths, size, seed, config.split, shard, shards)
