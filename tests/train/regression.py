"""The smallest real stage: a regression with noise on its inputs, a moving average and mutable state.

Run as a program it trains in a folder until it is done or killed:
    python -m tests.train.regression MODEL_DIR [--key=value of `run`]
"""

import dataclasses
import sys
import time
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from melody_jax.bundle.part import read_info
from melody_jax.geometry import Geometry
from melody_jax.nn.dense import Dense
from melody_jax.train import loop
from melody_jax.train.arrays import ArrayBatches
from melody_jax.train.optim import OptimConfig, apply_gradients, make_optimizer
from melody_jax.train.stage import Data, Stage
from melody_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class RegressionConfig:
    width: int = 16


class Network(nn.Module):
    config: RegressionConfig

    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(Dense(self.config.width, axes=("embed", "mlp"), name="inner")(x))
        return Dense(8, axes=("mlp", "embed"), name="outer")(x)


@dataclasses.dataclass(frozen=True)
class RegressionStage(Stage):
    config: RegressionConfig = RegressionConfig()
    geometry: Geometry = Geometry()
    optim: OptimConfig = OptimConfig(learning_rate=1e-2, warmup_steps=5, total_steps=40, ema_decay=0.9)
    batch_size: int = 8
    poison_step: int = -1
    name: ClassVar[str] = "regression"
    starts: ClassVar[dict[str, str]] = {"regression": ""}

    def init(self, key):
        params = Network(self.config).init(key, jnp.zeros((1, 8)))["params"]
        return TrainState.create(key, params, make_optimizer(self.optim), extra={"mean": jnp.zeros(8)})

    def _loss(self, params, batch, noise):
        error = Network(self.config).apply({"params": params}, batch["x"] + noise) - batch["y"]
        return jnp.mean(jnp.square(error))

    def train_step(self, state, batch):
        noise = 0.1 * jax.random.normal(state.step_key, batch["x"].shape)
        loss, gradients = jax.value_and_grad(self._loss)(state.params, batch, noise)
        mean = 0.9 * state.extra["mean"] + 0.1 * jnp.mean(batch["x"], axis=0)
        poisoned = jnp.where(state.step + 1 == self.poison_step, jnp.nan, loss)
        state, metrics = apply_gradients(self.optim, state.replace(extra={"mean": mean}), gradients)
        return state, {"loss": poisoned, **metrics}

    def eval_step(self, state, batch):
        return {"loss": self._loss(state.averaged, batch, jnp.zeros_like(batch["x"]))}

    def batch_shapes(self):
        return {name: jax.ShapeDtypeStruct((self.batch_size, 8), jnp.float32) for name in ("x", "y")}

    def finish(self, state, batches):
        # Calibrates on training batches, so that a resumed run must stand at the same one.
        calibration = np.mean(np.stack([next(batches)["x"] for _ in range(2)]))
        return {**state.averaged, "mean": state.extra["mean"], "calibration": calibration}

    def part(self):
        return self.config, self.geometry, {}


@dataclasses.dataclass(frozen=True)
class ChildStage(RegressionStage):
    """A regression with a parent."""

    parents_dir: str = ""
    name: ClassVar[str] = "child"

    def part(self):
        return self.config, self.geometry, {"regression": read_info(f"{self.parents_dir}/regression")["id"]}


def examples(seed: int = 0) -> dict[str, np.ndarray]:
    """100 rows of one linear map."""
    x = np.random.default_rng(seed).normal(size=(100, 8)).astype(np.float32)
    return {"x": x, "y": x @ np.random.default_rng(99).normal(size=(8, 8)).astype(np.float32)}


class SlowBatches(ArrayBatches):
    """Leaves the time to be interrupted."""

    def __init__(self, *args, delay: float, **kwargs):
        super().__init__(*args, **kwargs)
        self._delay = delay

    def __next__(self):
        time.sleep(self._delay)
        return super().__next__()


def run(model_dir, delay=0.0, stage=None, **changes):
    """Trains in `model_dir` and returns the part."""
    stage = stage or RegressionStage()
    settings = {"total_steps": 40, "checkpoint_every": 7, "eval_every": 10, "log_every": 5, "eval_steps": 2} | changes
    data = Data(
        SlowBatches(examples(), stage.batch_size, seed=3, delay=delay),
        ArrayBatches(examples(seed=1), stage.batch_size, shuffle=False),
    )
    return loop.train(stage, data, loop.Run(model_dir=str(model_dir), **settings))


if __name__ == "__main__":
    try:
        run(sys.argv[1], delay=float(sys.argv[2]))
    except loop.StoppedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
