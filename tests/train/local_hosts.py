"""A host of a pod that trains the regression with checkpoints on its own disk. Run by `test_local.py`:

python -m tests.train.local_hosts MODEL_DIR DISKS MESH POISON_STEP
"""

import sys

from melody_jax.parallel import hosts
from melody_jax.parallel.batch import host_shard
from melody_jax.parallel.mesh import make_mesh
from melody_jax.train import loop
from melody_jax.train.arrays import ArrayBatches
from melody_jax.train.stage import Data
from tests.train.regression import RegressionStage, examples

TOTAL, SAVE_EVERY, LOCAL_EVERY = 14, 6, 2

if __name__ == "__main__":
    hosts.join()
    folder, disks, mesh, poison = sys.argv[1:]
    stage = RegressionStage(poison_step=int(poison))
    shard = host_shard(make_mesh(mesh))
    batches = ArrayBatches(examples(), stage.batch_size, seed=3, shard=shard.index, shards=shard.count)
    every = {"checkpoint_every": SAVE_EVERY, "local_every": LOCAL_EVERY, "log_every": 1, "eval_steps": 0}
    where = {"model_dir": folder, "local_checkpoints": f"{disks}/$JAX_PROCESS_ID", "mesh": mesh}
    try:
        loop.train(stage, Data(batches, iter([])), loop.Run(TOTAL, **every, **where))
    except loop.StoppedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
