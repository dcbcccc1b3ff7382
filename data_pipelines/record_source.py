"""The seqio source of a TFDS data set, with an order that is a pure function of the seed.

The order of the steps, fixed here and in `batches`, and why:

1. positions 0, 1, 2, ... of an endless stream; this host's rows of each global batch. These are only numbers,
   so that the state of the whole pipeline is one number, and starting in the middle costs nothing. In a mixture the
   position decides which data set gives its p-th example (`mixture.deal`); otherwise p is the position;
2. shuffle: example p is of epoch p // n, and its place in that epoch goes through a seeded permutation of all n clips.
   A perfect shuffle of the whole split, without a buffer that would have to be filled, kept and saved;
3. repeat: by the epoch in 2, which gives each epoch its own order (`Dataset.repeat` would replay the first);
4. read: records by number, many at once (`records.IN_FLIGHT`), and given on in the order asked for;
5. map: seqio's preprocessors, whose randomness comes from the `seed` that every example carries: seed and position. So
   a crop, too, is the same in a resumed run and different in every epoch;
6. batch after everything is cropped; sound stays int16 and latents float16, half the bytes to copy and to send.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from data_pipelines import mixture, read
from melody_jax import storage
from melody_jax.errors import UserError

_BLOCK = 16  # records that TensorFlow takes over at a time


@dataclasses.dataclass(frozen=True)
class Stream:
    """How far an endless stream has come.

    Attributes:
        start: examples that all hosts together have already given out.
        block: consecutive examples a host takes before the next host's turn: its rows of a global batch.
        weights: of the data sets of a mixture; see `mixture.deal`.
        number: the data set that is read here. Only its examples are given, at their positions in the mixture.
    """

    start: int = 0
    block: int = 1
    weights: tuple[int, ...] = (1,)
    number: int = 0

    def positions(self, shard: seqio.ShardInfo) -> Iterator[np.ndarray]:
        """A host's positions, of all data sets, a block at a time."""
        for first in itertools.count(0, _BLOCK):
            turn, place = np.divmod(np.arange(first, first + _BLOCK), self.block)
            yield self.start + (turn * shard.num_shards + shard.index) * self.block + place

    def choices(self, shard: seqio.ShardInfo) -> tf.data.Dataset:
        """The numbers of the data sets that a host's examples come from, one after another."""

        def blocks() -> Iterator[np.ndarray]:
            for positions in self.positions(shard):
                yield mixture.deal(positions, self.weights)[0]

        return tf.data.Dataset.from_generator(blocks, output_signature=tf.TensorSpec([None], tf.int64)).unbatch()


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
        self.directory = storage.path(directory)
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
        """Examples {field: tensor, "seed": int64 [2]}; without a seed it is 0, so that nothing is random.

        Raises:
            UserError: no such data set, split or field, or damaged files.
        """
        records, features = read.open_split(self.directory, split)
        missing = set(self.fields) - set(features)
        if missing:
            raise UserError(f"{self.directory}: its clips have no {', '.join(sorted(missing))}")
        shard = shard_info or seqio.ShardInfo(0, 1)
        wanted = tfds.features.FeaturesDict({name: features[name] for name in self.fields})
        order = _order(len(records), shuffle, seed or 0)

        def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            given, ahead = itertools.tee(_positions(self.stream, len(records), shard))
            data = records.read(number for _, index in ahead for number in order(index))
            for positions, _ in given:
                found = np.empty(len(positions), object)
                found[:] = list(itertools.islice(data, len(positions)))
                yield positions, found

        def parse(position, data):
            example = wanted.deserialize_example(data)
            return {**example, "seed": tf.stack([tf.constant(seed or 0, tf.int64), position])}

        signature = tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.string)
        dataset = tf.data.Dataset.from_generator(blocks, output_signature=signature).unbatch()
        return dataset.map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _positions(stream: Stream | None, count: int, shard: seqio.ShardInfo) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """This host's positions in the order of all hosts, and the numbers of the examples in the data set."""
    for positions in (stream or Stream()).positions(shard):
        if stream is None:
            positions = positions[positions < count]
            if not len(positions):
                return
            yield positions, positions
        else:
            which, index = mixture.deal(positions, stream.weights)
            if (mine := which == stream.number).any():
                yield positions[mine], index[mine]


def _order(count: int, shuffle: bool, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Numbers of examples [n], in the order of reading, to record numbers [n]."""

    @functools.lru_cache(maxsize=1)
    def permutation(epoch: int) -> np.ndarray:
        numbers = np.arange(count, dtype=np.uint32 if count < 2**32 else np.int64)  # half the memory
        np.random.default_rng((seed, epoch)).shuffle(numbers)
        return numbers

    def order(index: np.ndarray) -> np.ndarray:
        epochs, places = np.divmod(index, count)
        if not shuffle:
            return places
        taken = [permutation(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()]
        return np.concatenate(taken)  # positions rise, so that epochs follow one another

    return order
