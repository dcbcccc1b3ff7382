"""Checkpoints: the state (without the parents' weights), every host's data position and the run's record, in one.

Orbax writes a checkpoint in the background and, when every host is done, a file that says so; a folder without it is
unfinished. No folder is renamed, which mounted buckets refuse. The data position and the record are items of the same
checkpoint, so a checkpoint either is complete or does not exist. The sizes of all of its files are written just before:
one that was cut short afterwards is known before anything of it is read. A host that cannot write (a full disk) stops all
of them: `save`, `wait` and `check` are called on every host.
"""

import asyncio
import dataclasses
import gc
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import future
from orbax.checkpoint.path import atomicity

from melody_jax import storage
from melody_jax.errors import StoppedError, UserError, exit_code_of
from melody_jax.parallel.hosts import everywhere, together
from melody_jax.parallel.init import gathered, spread
from melody_jax.storage import Path
from melody_jax.train.stage import Batches
from melody_jax.train.state import TrainState

Record = dict[str, Any]
SIZES = "sizes.json"
_POLL = 0.1  # seconds between two looks at a checkpoint that several hosts write
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state read from a checkpoint, and the record that was saved with it."""

    state: TrainState
    record: Record


class PositionHandler(ocp.AsyncCheckpointHandler):
    """Orbax item for a `Batches`: one folder per host, written before the checkpoint is declared complete."""

    async def async_save(self, directory: Any, args: "SavePosition") -> list[future.Future]:
        """Writes at once, as the batches move on. That it failed is said later, in the background: hosts meet in between."""
        written = future.CommitFutureAwaitingContractedSignals(asyncio.to_thread(self.save, directory, args))
        with suppress(Exception):
            written.result()
        return [written]

    def save(self, directory: Any, args: "SavePosition") -> None:
        folder = storage.path(directory) / str(jax.process_index())
        folder.mkdir(parents=True)
        args.batches.save(folder)

    def restore(self, directory: Any, args: "RestorePosition") -> None:
        folder = storage.path(directory) / str(jax.process_index())
        # Written by fewer hosts: all hosts stand at the same global batch, so any host's position will do.
        args.batches.restore(folder if folder.exists() else storage.path(directory) / "0")


@ocp.args.register_with_handler(PositionHandler, for_save=True)
@dataclasses.dataclass
class SavePosition(ocp.args.CheckpointArgs):
    """Saves the position of `batches`."""

    batches: Batches


@ocp.args.register_with_handler(PositionHandler, for_restore=True)
@dataclasses.dataclass
class RestorePosition(ocp.args.CheckpointArgs):
    """Moves `batches` to the saved position."""

    batches: Batches


class _Manager(ocp.CheckpointManager):
    """Knows at once that this host could not write; orbax's own waits for the other hosts before it says so."""

    failure: Exception | None = None

    def _wait_for_checkpointers(self) -> None:
        try:
            super()._wait_for_checkpointers()
        except Exception as error:
            self.failure = error
            raise


class Checkpoints:
    """The last `keep` checkpoints of one run."""

    def __init__(self, directory: Path, keep: int):
        self._directory = storage.absolute(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._saving, self._failed = -1, False
        _adopt(self._directory)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            temporary_path_class=atomicity.CommitFileTemporaryPath,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_sizes),
        )
        self._manager = _Manager(self._directory, options=options)

    @property
    def latest(self) -> int:
        """The step of the newest complete checkpoint, -1 if there is none."""
        return max(self._manager.all_steps(), default=-1)

    def save(self, state: TrainState, batches: Batches, record: Record) -> None:
        """Starts writing the checkpoint of `state.step`; waits only for the copy to the host and the one before.

        Raises:
          StoppedError: this or the previous checkpoint could not be written (a full disk); older ones are intact.
        """
        step = int(state.step)
        arrays = state.arrays
        record = {**record, "arrays": _signature(arrays)}
        with self._explained():
            if step not in self._manager.all_steps():
                items = ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays),
                    batches=SavePosition(batches),
                    record=ocp.args.JsonSave(record),
                )
                self._finish()
                self._saving = step
                with together():
                    self._manager.save(step, args=items, force=True)

    def wait(self) -> None:
        """Until the last checkpoint is on disk. Raises as `save`."""
        with self._explained():
            self._finish()

    def check(self) -> None:
        """Raises as `save` where the checkpoint that is being written has already failed."""
        with self._explained(), together():
            self._check()

    def close(self) -> None:
        """Ends the background threads; those of a failed write wait for hosts that do not come."""
        if not (self._failed and jax.process_count() > 1):
            with suppress(Exception):  # of a write that failed, which is what ends this run
                self._manager.close()

    def _check(self) -> None:
        self._manager.check_for_errors()
        if self._manager.failure is not None:
            raise self._manager.failure

    def _finish(self) -> None:
        done = jax.process_count() == 1
        while not done:
            with together():
                self._check()
            done = everywhere(not self._manager.is_saving_in_progress())
            time.sleep(0 if done else _POLL)
        self._manager.wait_until_finished()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax and tensorstore raise many kinds; all mean the same to the user
            self._failed = True
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise StoppedError(f"a checkpoint could not be written ({reason})", exit_code_of(error)) from error

    def restore(self, state: TrainState, batches: Batches | None) -> Restored | None:
        """The newest checkpoint that can be read, laid out as `state`; None if there is none.

        Moves `batches`, where they are given, to its position.

        A checkpoint that cannot be read (cut short on disk) is reported and removed once an older one has been read.

        Raises:
          UserError: there are checkpoints but none can be read, or they hold other arrays than `state`.
        """
        restored, broken = self._newest(state, batches)
        if restored is None and broken:
            raise UserError(
                f"none of the checkpoints in {self._directory} can be read; move the folder away to start anew"
            )
        return restored

    def go_back(self, state: TrainState) -> Restored | None:
        """The newest checkpoint whose record says `healthy`; newer ones are removed. No batches are moved."""
        self.wait()
        return self._newest(state, None, healthy=True)[0]

    def _newest(
        self, state: TrainState, batches: Batches | None, healthy: bool = False
    ) -> tuple[Restored | None, list[int]]:
        """The newest that can be read (and is `healthy`), after which newer ones are removed; the steps passed over."""
        broken: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored = self._restore(step, state, batches)
            if restored is not None and (not healthy or restored.record.get("healthy", True)):
                for other in broken:
                    self._manager.delete(other)
                return restored, broken
            broken.append(step)
        return None, broken

    def _restore(self, step: int, state: TrainState, batches: Batches | None) -> Restored | None:
        arrays = state.arrays
        layout = {name: leaf.sharding for name, leaf in arrays.items()}
        # What several hosts hold, one of them reads and sends to the others: a bucket serves each byte once.
        several = jax.process_count() > 1
        abstract = {
            name: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=spread(leaf.sharding, leaf.shape) if several else leaf.sharding
            )
            for name, leaf in arrays.items()
        }
        found, error = None, None
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # orbax abandons its other reads, loudly
        try:
            _check_sizes(self._directory / str(step))
            record = self._manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]
            _check_signature(record["arrays"], _signature(arrays), self._directory / str(step))
            position = {} if batches is None else {"batches": RestorePosition(batches)}
            items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), **position)
            found = self._manager.restore(step, args=items)["state"], record
        except UserError:
            raise
        except Exception as cause:  # whatever a damaged file makes of the readers below: one answer, the one before
            error = str(cause).partition("\n")[0]
        finally:
            gc.collect()
            sys.unraisablehook = hook
        if everywhere(found is not None) and found:
            read, record = found
            return Restored(state.with_arrays(gathered(read, layout) if several else read), record)
        _LOG.warning("checkpoint %s/%d cannot be read, trying the one before: %s", self._directory, step, error)
        return None

    def _write_sizes(self) -> None:
        """Called by orbax when every item is on disk, before the checkpoint counts as complete."""
        if jax.process_index():
            return
        for folder in self._directory.iterdir():
            if folder.name.partition(".")[0] == str(self._saving):
                (folder / SIZES).write_text(json.dumps(_sizes(folder)))

    def last_good(self, alone: bool = False) -> str:
        """Where the newest complete checkpoint is, for a message; waits for the one being written.

        Not where this host is `alone` with what ended its run: the others do not wait with it.
        """
        self._failed |= alone and jax.process_count() > 1
        if not self._failed:
            with suppress(StoppedError):
                self.wait()
        steps = self._manager.all_steps(read=True)
        return f"the last good checkpoint is {self._directory}/{max(steps)}" if steps else "there is no checkpoint yet"


def _adopt(directory: Path) -> None:
    """Marks checkpoints as complete that earlier versions, which renamed their folders, have completed; else orbax would
    take them for unfinished ones and remove them."""
    if jax.process_index() or storage.in_bucket(directory):  # they wrote none there
        return
    for sizes in directory.glob(f"*/{SIZES}"):
        folder = sizes.parent
        if folder.name.isdigit() and not (folder / atomicity.COMMIT_SUCCESS_FILE).exists():
            with suppress(OSError, ValueError):  # it is not whole
                _check_sizes(folder)
                for item in (*(path for path in folder.iterdir() if path.is_dir()), folder):
                    (item / atomicity.COMMIT_SUCCESS_FILE).write_text(f"complete: {SIZES} agrees\n")


def _signature(arrays: Mapping[str, jax.Array]) -> dict[str, str]:
    return {name: f"{leaf.dtype.name}{list(leaf.shape)}" for name, leaf in arrays.items()}


def _check_signature(saved: Mapping[str, str], wanted: Mapping[str, str], path: Path) -> None:
    different = [name for name in (*wanted, *saved) if saved.get(name) != wanted.get(name)]
    if different:
        name = different[0]
        raise UserError(
            f"checkpoint {path} is of another configuration: {name} is {saved.get(name, 'absent')} there and "
            f"{wanted.get(name, 'absent')} in this run; use its configuration or another --model_dir"
        )


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file of every item."""
    return {name: size for name, size in storage.files_below(folder).items() if "/" in name}


def _check_sizes(folder: Path) -> None:
    """Raises OSError where a file is not what it was; readers of arrays leave threads behind when they fail."""
    if not (folder / SIZES).exists():
        return
    found = _sizes(folder)
    for name, size in json.loads((folder / SIZES).read_text()).items():
        if found.get(name) != size:
            raise OSError(f"{name} has {found.get(name, 'none')} of {size} bytes")
