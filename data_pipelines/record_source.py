"""The seqio source of a TFDS data set, with an order that is a pure function of the seed.

The order of the steps, fixed here and in `batches`, and why:

1. positions 0, 1, 2, ... of an endless stream; this host's rows of each global batch. Nothing but numbers yet, so that
   the state of the whole pipeline is one number, and starting in the middle costs nothing;
2. shuffle: position p is epoch p // n, and its place in that epoch goes through a seeded permutation of all n clips.
   A perfect shuffle of the whole split, without a buffer that would have to be filled, kept and saved;
3. repeat: by the epoch in 2, which gives each epoch its own order (`Dataset.repeat` would replay the first);
4. read: records by number, sixteen at once;
5. map: seqio's preprocessors, whose randomness comes from the `seed` that every example carries: seed and position. So
   a crop, too, is the same in a resumed run and different in every epoch;
6. batch after everything is cropped, and widen int16 to float32 after the batch: half the bytes to copy.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from data_pipelines import read
from melody_jax.errors import UserError

_READ_AT_ONCE = 16
_ENDLESS = 2**62


@dataclasses.dataclass(frozen=True)
class Stream:
    """How far an endless stream has come.

    Attributes:
        start: examples that all hosts together have already given out.
        block: consecutive examples a host takes before the next host's turn: its rows of a global batch.
    """

    start: int = 0
    block: int = 1


class RecordSource(seqio.DataSource):
    """Examples of one TFDS data set, some of their fields, and a `seed` int64 [2] of their own.

    `get_dataset` gives one epoch, as seqio expects, in shuffled or stored order; a source with a `Stream` gives epochs
    without end.

    Args:
        directory: the data set's version folder. It is opened when it is used.
        fields: which fields to decode, as in the data set's features.
        stream: None for one epoch.
    """

    def __init__(self, directory: str, fields: Sequence[str], stream: Stream | None = None):
        self.directory = pathlib.Path(directory)
        self.fields = tuple(fields)
        self.stream = stream
        super().__init__(splits=("train", "validation", "test"), performs_internal_shuffling=True)

    def streaming(self, stream: Stream) -> "RecordSource":
        """The same source without an end."""
        return RecordSource(str(self.directory), self.fields, stream)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """seqio shards this source by examples, so there is one."""
        return [str(self.directory)]

    def num_input_examples(self, split: str) -> int:
        """How many examples `split` has; 0 where it does not exist."""
        return int(read.counts(self.directory).get(split, 0))

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """Examples {field: tensor, "seed": int64 [2]}; without a seed it is 0: nothing here is left to chance.

        Raises:
            UserError: no such data set, split or field, or damaged files.
        """
        records, features = read.open_split(self.directory, split)
        missing = set(self.fields) - set(features)
        if missing:
            raise UserError(f"{self.directory}: its clips have no {', '.join(sorted(missing))}")
        shard = shard_info or seqio.ShardInfo(0, 1)
        positions = _positions(self.stream, len(records), shard)
        order = _order(len(records), shuffle, seed or 0)
        wanted = tfds.features.FeaturesDict({name: features[name] for name in self.fields})

        def fetch(positions):
            data = tf.numpy_function(look_up, [positions], tf.string, stateful=False)
            return positions, tf.ensure_shape(data, [None])

        def look_up(positions: np.ndarray) -> np.ndarray:
            found = np.empty(len(positions), object)
            found[:] = records.read(order(positions))
            return found

        def parse(position, data):
            example = wanted.deserialize_example(data)
            return {**example, "seed": tf.stack([tf.constant(seed or 0, tf.int64), position])}

        fetched = positions.batch(_READ_AT_ONCE).map(fetch, num_parallel_calls=2, deterministic=True).unbatch()
        return fetched.map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _positions(stream: Stream | None, count: int, shard: seqio.ShardInfo) -> tf.data.Dataset:
    """This host's positions in the order of all hosts."""
    if stream is None:
        return tf.data.Dataset.range(shard.index, count, shard.num_shards)
    block, stride = stream.block, stream.block * shard.num_shards
    first = stream.start + shard.index * block
    return tf.data.Dataset.range(_ENDLESS // stride).map(lambda i: first + i // block * stride + i % block)


def _order(count: int, shuffle: bool, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Positions [n] to record numbers [n]."""

    @functools.lru_cache(maxsize=2)  # reads ahead may already be in the next epoch
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(count)

    def order(positions: np.ndarray) -> np.ndarray:
        places = positions % count
        if not shuffle:
            return places
        epochs = positions // count
        return np.asarray([permutation(int(epoch))[place] for epoch, place in zip(epochs, places)], np.int64)

    return order
