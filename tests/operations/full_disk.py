"""Writes checkpoints of many arrays where no file may grow beyond 100 kB: `python -m tests.operations.full_disk FOLDER`."""

import pathlib
import resource
import sys
import types

import jax.numpy as jnp
import numpy as np

from melody_jax.errors import StoppedError
from melody_jax.operations.training import prepare_jax
from melody_jax.train.checkpoint import Checkpoints

ROUNDS = 5


def main(folder: pathlib.Path) -> None:
    prepare_jax()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    rng = np.random.default_rng(0)
    arrays = {f"a{i}": jnp.asarray(rng.normal(size=(100, 100)), jnp.float32) for i in range(60)}
    for step in range(ROUNDS):
        checkpoints = Checkpoints(folder / str(step), 1)
        batches = types.SimpleNamespace(save=lambda directory: None)
        try:
            checkpoints.save(types.SimpleNamespace(step=step, arrays=arrays), batches, {})  # pyright: ignore
            checkpoints.wait()
        except StoppedError as error:
            print(error.exit_code, error)
        checkpoints.close()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
