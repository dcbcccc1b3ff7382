"""A host of a pod that saves a state, reads it back and says how many bytes it has read. Run by `test_restore.py`:

python -m tests.train.reading_hosts MODEL_DIR MESH
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore

from melody_jax.parallel import hosts
from melody_jax.parallel.init import sharded_init
from melody_jax.parallel.mesh import make_mesh
from melody_jax.train.arrays import ArrayBatches
from melody_jax.train.checkpoint import Checkpoints
from tests.train.regression import RegressionConfig, RegressionStage, examples

READ = "/tensorstore/kvstore/file/bytes_read"


def bytes_read() -> int:
    """By this process, of arrays, so far."""
    return sum(
        value["value"]
        for metric in tensorstore.experimental_collect_matching_metrics(READ)
        for value in metric["values"]
    )


if __name__ == "__main__":
    hosts.join()
    folder, mesh = sys.argv[1:]
    stage = RegressionStage(RegressionConfig(width=65536))
    state = sharded_init(stage.init, jax.random.PRNGKey(0), make_mesh(mesh))
    # no zeros, which take no room on the disk
    state = jax.tree.map(lambda leaf: leaf + 1 if leaf.ndim else leaf, state)
    checkpoints = Checkpoints(Path(folder), keep=1)
    checkpoints.save(state, ArrayBatches(examples(), 8), {})
    checkpoints.wait()
    before = bytes_read()
    restored = checkpoints.restore(jax.tree.map(jnp.zeros_like, state), None)
    assert restored is not None
    print("read", bytes_read() - before, flush=True)
    for name, leaf in restored.state.arrays.items():
        saved = state.arrays[name]
        assert leaf.sharding.is_equivalent_to(saved.sharding, leaf.ndim), name
        for shard, wanted in zip(leaf.addressable_shards, saved.addressable_shards, strict=True):
            np.testing.assert_array_equal(shard.data, wanted.data)
    checkpoints.close()
