"""A checkpoint written beside the run's own, read back and removed: speed, size, and whether the disk has room."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
import jax.numpy as jnp

from melody_jax.errors import StoppedError, UserError
from melody_jax.operations.doctor.finding import FAILURE, Finding, judge
from melody_jax.parallel.hosts import barrier
from melody_jax.train.checkpoint import Checkpoints
from melody_jax.train.end import sole_user
from melody_jax.train.stage import Batches
from melody_jax.train.state import TrainState


def check_disk(state: TrainState, batches: Batches, model_dir: Path, name: str, keep: int) -> list[Finding]:
    """Writes `state` and the position of `batches` as a checkpoint in a folder of its own in `model_dir`, reads them
    back, and leaves nothing behind.

    Args:
      name: of the stage, whose own checkpoints and lock are left alone.
      keep: checkpoints that a run keeps.
    """
    try:
        with _scratch(model_dir, name) as folder:
            return _written_and_read(state, batches, folder, model_dir / name, keep)
    except (OSError, StoppedError, UserError) as error:
        return [
            Finding(FAILURE, "checkpoint", str(error).partition("\n")[0], "make room or give write permission there")
        ]


def _written_and_read(state: TrainState, batches: Batches, folder: Path, run: Path, keep: int) -> list[Finding]:
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    try:
        started = time.monotonic()
        checkpoints.save(state, batches, {})
        checkpoints.wait()
        seconds = time.monotonic() - started
        size = _bytes_in(folder)
        restored = checkpoints.restore(state, batches)
    finally:
        checkpoints.close()
    equal = restored is not None and _equal(restored.state, state)
    rate = size / 1e6 / seconds
    measured = (
        f"{size / 1e6:,.1f} MB in {seconds:.1f} s ({rate:,.0f} MB/s), read back {'equal' if equal else 'changed'}"
    )
    written = judge("checkpoint", measured, "the disk does not keep what is written: use another", failure=not equal)
    free = shutil.disk_usage(folder).free + size + _bytes_in(run / "checkpoints")
    needed = (keep + 1) * size  # one is written before the oldest is removed
    measured = f"{free / 1e9:,.2f} GB for {keep} checkpoints and the one being written, {needed / 1e9:,.2f} GB"
    advice = "make room, or keep fewer: --set loop.Run.keep=1"
    room = judge("disk space", measured, advice, failure=free < needed, warning=free < 2 * needed)
    return [written, room]


@contextmanager
def _scratch(model_dir: Path, name: str) -> Iterator[Path]:
    """A folder in `model_dir` that is gone afterwards, and with it the folders made for it."""
    folder = model_dir / f".doctor-{name}"
    made = [path for path in (model_dir, *model_dir.parents) if not path.exists()]
    with sole_user(folder):
        try:
            yield folder
        finally:
            barrier()
            if jax.process_index() == 0:
                shutil.rmtree(folder, ignore_errors=True)
                for path in made:
                    with suppress(OSError):  # somebody else has begun to use it
                        path.rmdir()


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _equal(one: TrainState, other: TrainState) -> bool:
    """Whether all that is in a checkpoint is equal to the bit (a NaN equals itself)."""
    pairs = zip(jax.tree.leaves(one.replace(frozen={})), jax.tree.leaves(other.replace(frozen={})), strict=True)
    return all(bool(jnp.array_equal(a, b, equal_nan=jnp.issubdtype(a.dtype, jnp.inexact))) for a, b in pairs)
