"""Batches from arrays in memory: for training without TensorFlow, and as the reference implementation of
`stage.Batches`."""

import json
from collections.abc import Mapping

import numpy as np

from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.storage import Path


class ArrayBatches:
    """Endless batches of rows of `arrays` (equal first dimensions), shuffled anew in every epoch.

    The order is a function of the seed alone and the same for any number of hosts: host `shard` of `shards` gives the
    `shard`-th equal slice of every global batch. The last, incomplete batch of an epoch is left out.

    Args:
      arrays: name -> array [examples, ...].
      batch_size: of the global batch; this host gives batch_size / shards rows.
      seed: of the order.
      shuffle: False gives the rows in their order, epoch after epoch.
      shard, shards: this host's share (`parallel.batch.host_shard`).

    Raises:
      UserError: arrays of unequal lengths, fewer examples than one batch, or a batch that does not divide over the
        hosts.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        batch_size: int,
        seed: int = 0,
        *,
        shuffle: bool = True,
        shard: int = 0,
        shards: int = 1,
    ):
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise UserError(f"arrays of unequal or no lengths: {lengths}")
        self._examples = next(iter(lengths.values()))
        if self._examples < batch_size:
            raise UserError(f"{self._examples} examples do not fill one batch of {batch_size}")
        if batch_size % shards:
            raise UserError(f"a global batch of {batch_size} does not divide over {shards} hosts")
        self._arrays = dict(arrays)
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._rows = slice(shard * batch_size // shards, (shard + 1) * batch_size // shards)
        self._given = 0
        self._epoch = -1
        self._order = np.arange(self._examples)

    def __iter__(self) -> "ArrayBatches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        epoch, index = divmod(self._given, self._examples // self._batch_size)
        if self._shuffle and epoch != self._epoch:
            self._order = np.random.default_rng((self._seed, epoch)).permutation(self._examples)
            self._epoch = epoch
        rows = self._order[index * self._batch_size :][: self._batch_size][self._rows]
        self._given += 1
        return {name: array[rows] for name, array in self._arrays.items()}

    def save(self, directory: Path) -> None:
        """Writes the number of batches given out."""
        (storage.path(directory) / "position.json").write_text(json.dumps({"batches": self._given}))

    def restore(self, directory: Path) -> None:
        """Continues after the last batch given out before `save`."""
        self._given = json.loads((storage.path(directory) / "position.json").read_text())["batches"]
