"""ArrayBatches: deterministic, resumable, disjoint and complete over hosts."""

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.train.arrays import ArrayBatches

ROWS = {"id": np.arange(22)}


def _ids(batches, count):
    return [tuple(next(batches)["id"]) for _ in range(count)]


def test_an_epoch_gives_every_row_once_in_an_order_of_its_own():
    epochs = np.asarray(_ids(ArrayBatches({"id": np.arange(20)}, 4, seed=1), 10)).reshape(2, 20)
    assert (np.sort(epochs, axis=1) == np.arange(20)).all()
    assert (epochs[0] != epochs[1]).any()
    assert _ids(ArrayBatches(ROWS, 4, seed=1), 9) == _ids(ArrayBatches(ROWS, 4, seed=1), 9)
    assert _ids(ArrayBatches(ROWS, 4, seed=1), 9) != _ids(ArrayBatches(ROWS, 4, seed=2), 9)


def test_hosts_are_disjoint_and_make_up_the_global_batch():
    whole = _ids(ArrayBatches(ROWS, 4, seed=1), 7)
    hosts = [_ids(ArrayBatches(ROWS, 4, seed=1, shard=shard, shards=2), 7) for shard in range(2)]
    assert [first + second for first, second in zip(*hosts)] == whole


def test_restored_batches_go_on_where_they_stood(tmp_path):
    batches = ArrayBatches(ROWS, 4, seed=1)
    _ids(batches, 7)
    batches.save(tmp_path)
    expected = _ids(batches, 6)
    fresh = ArrayBatches(ROWS, 4, seed=1)
    fresh.restore(tmp_path)
    assert _ids(fresh, 6) == expected


def test_bad_arrays_are_named():
    with pytest.raises(UserError, match="22 examples do not fill one batch of 23"):
        ArrayBatches(ROWS, 23)
    with pytest.raises(UserError, match="unequal"):
        ArrayBatches({"a": np.zeros(3), "b": np.zeros(4)}, 2)
    with pytest.raises(UserError, match="4 does not divide over 3 hosts"):
        ArrayBatches(ROWS, 4, shards=3)
