"""The six stages at minimal shapes, on arrays in memory, with everything switched on that a restart could lose.

Run as a program it trains one of them in a folder until it is done or killed; after batch HOLD it goes slowly:
    python -m tests.train.six_stages STAGE MODEL_DIR PARENTS_DIR HOLD
"""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np

from melody_jax.bundle.part import save_part
from melody_jax.mulan.augment import AugmentConfig
from melody_jax.parallel import hosts
from melody_jax.parallel.batch import host_shard
from melody_jax.parallel.mesh import DEFAULT, make_mesh
from melody_jax.stages.codes import CodesStage
from melody_jax.train import loop
from melody_jax.train.arrays import ArrayBatches
from melody_jax.train.optim import OptimConfig
from melody_jax.train.stage import Data
from tests.stages import test_autoencoder, test_codes, test_dpd, test_lm, test_mulan, test_semantic

TOTAL = 20
SAVE_EVERY = 5
SEED_STEP = 12  # of the codes: between two checkpoints


def save_parents(folder: Path) -> None:
    """The parts that codes, lm and dpd are trained with. Of "codes" and "autoencoder" they only read the id."""
    test_codes.save_parents(folder)
    weights = {"w": np.zeros(2, np.float32)}
    for name in ("codes", "autoencoder"):
        save_part(folder / name, name, weights, test_codes.CONFIG, test_codes.GEOMETRY, {}, {})


def make_stage(name: str, parents_dir: Path):
    """A stage with dropout, augmentation, EMA, running statistics, accumulation and calibration where it has them."""
    parents = str(parents_dir)
    if name == "autoencoder":  # both players act from step 2 on
        return dataclasses.replace(test_autoencoder.STAGE, spike_factor=10.0, calibration_batches=2)
    if name == "mulan":
        config = dataclasses.replace(test_mulan.STAGE.config, center=True, projection_dropout=0.1)
        augment = AugmentConfig(gain_db=6.0, roll=1.0, time_masks=1, band_masks=1)
        return dataclasses.replace(test_mulan.STAGE, config=config, augment=augment, calibration_batches=32)
    if name == "semantic":
        conformer = dataclasses.replace(test_semantic.CONFIG.conformer, dropout=0.1)
        config = dataclasses.replace(test_semantic.CONFIG, conformer=conformer)
        return dataclasses.replace(test_semantic.STAGE, config=config, crop_seconds=0.4)
    if name == "codes":
        config = dataclasses.replace(test_codes.CONFIG, seed_step=SEED_STEP)
        return CodesStage(config, test_codes.GEOMETRY, OptimConfig(), batch_size=8, parents_dir=parents)
    if name == "lm":
        config = dataclasses.replace(test_lm.STAGE.config, dropout=0.1)
        optim = dataclasses.replace(test_lm.STAGE.optim, accumulate=2)  # step 5 lies in the middle of an accumulation
        dropouts = {"text_share": 0.5, "condition_dropout": 0.3, "level_dropout": 0.5}
        return dataclasses.replace(test_lm.STAGE, config=config, optim=optim, parents_dir=parents, **dropouts)
    optim = dataclasses.replace(test_dpd.STAGE.optim, optimizer="muon")
    return dataclasses.replace(test_dpd.PRECONDITIONED, optim=optim, parents_dir=parents, calibration_batches=3)


class HeldBatches(ArrayBatches):
    """Leaves the time to be killed: batches after number `hold` take a second each."""

    def __init__(self, *args, hold: int, **kwargs):
        super().__init__(*args, **kwargs)
        self._hold = hold

    def __next__(self):
        if self._given >= self._hold:
            time.sleep(1)
        return super().__next__()


def make_batches(stage, hold: int = 1000) -> HeldBatches:
    """Four batches an epoch and some rows left over, in another order in every epoch."""
    if stage.name == "autoencoder":
        generator = test_autoencoder.batches(stage)
        several = [next(generator) for _ in range(5)]
    else:
        makers = {
            "mulan": test_mulan.batch,
            "semantic": test_semantic.batch,
            "codes": test_codes.batch,
            "lm": test_lm.batch_of,
            "dpd": test_dpd.batch,
        }
        several = [makers[stage.name](seed) for seed in range(5)]
    arrays = {name: np.concatenate([batch[name] for batch in several])[:-3] for name in several[0]}
    shard = host_shard(make_mesh(DEFAULT))
    return HeldBatches(arrays, stage.batch_size, seed=3, hold=hold, shard=shard.index, shards=shard.count)


def run(name: str, model_dir: Path, parents_dir: Path, hold: int = 1000) -> None:
    """Trains, without evaluation: it reads the state and leaves no trace in it."""
    stage = make_stage(name, parents_dir)
    every = {"checkpoint_every": SAVE_EVERY, "log_every": 1, "eval_steps": 0}
    settings = loop.Run(TOTAL, model_dir=str(model_dir), keep=1, **every)
    loop.train(stage, Data(make_batches(stage, hold), iter([])), settings)


if __name__ == "__main__":
    hosts.join()
    try:
        run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), hold=int(sys.argv[4]))
    except loop.StoppedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
