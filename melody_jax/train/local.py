"""Checkpoints on the hosts' own disks, which cost little and are made often, beside those in the run's folder.

Each host writes what its devices hold, without a word to the others: no network, no bucket, no meeting. At a start the hosts
tell each other which shards lie on their disks. The newest step counts of which every shard of this mesh is on one of them;
a host that lacks some, for its disk is another one, is sent them by a host that has them. So a lost disk costs nothing
where other hosts hold the same shards (the axis "data", several slices), and otherwise the time since the last
checkpoint in the run's folder.

Orbax has such a tier, as an experiment, for whole slices that are replicas of one another; a single slice gains nothing
by it.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from melody_jax import storage
from melody_jax.files import whole_folder
from melody_jax.parallel.hosts import everywhere, exchanged, process_allgather, together
from melody_jax.storage import Path
from melody_jax.train.checkpoint import Record, Restored
from melody_jax.train.stage import Batches
from melody_jax.train.state import TrainState

ID = "local_checkpoints.txt"
"""In the run's folder: which local checkpoints are its own. They count for nothing once that folder is gone."""

_KEPT = 2  # hosts are never further apart than one checkpoint: one of these all of them have
_SHARDS, _FACTS = "shards.safetensors", "facts.json"
_LOG = logging.getLogger(__name__)


class LocalCheckpoints:
    """The newest checkpoints of a run on the disks of its hosts; every host makes one of these.

    Args:
      root: a folder on this host's disk, perhaps with environment variables.
      run: the run's folder.

    Raises:
      UserError: `root` is no path of this machine.
      StoppedError: the folder cannot be made on one of the hosts.
    """

    def __init__(self, root: str, run: Path):
        # Two starts of a run may take the same step differently: shards of both are never put together.
        with together():
            own = json.dumps([_owner_of(run), secrets.token_hex(4)])
        owner, self._start = json.loads(exchanged(own)[0])
        self._folder = storage.local(os.path.expandvars(root), "a folder of local checkpoints").absolute() / owner
        self._own = self._folder / str(jax.process_index())
        with together():
            self._own.mkdir(parents=True, exist_ok=True)
            for unfinished in self._own.glob(".*"):
                shutil.rmtree(unfinished, ignore_errors=True)
        self._writer = futures.ThreadPoolExecutor(1, "local-checkpoint")
        self._writing: futures.Future[None] | None = None

    def save(self, state: TrainState, batches: Batches, record: Record) -> None:
        """Starts writing the checkpoint of `state.step`; waits only for the copy to the host and the one before.

        One that cannot be written is warned of, and the run goes on.
        """
        self.wait()
        shards = {
            _key(name, leaf, shard.index): shard.data
            for name, leaf in state.arrays.items()
            for shard in leaf.addressable_shards
        }
        for data in shards.values():
            data.copy_to_host_async()
        # copies, for the step that follows takes over the memory
        copied = {key: np.array(data).reshape(-1).view(np.uint8) for key, data in shards.items()}
        facts = json.dumps({"record": record, "position": _position_of(batches)})  # now: the loop's record goes on
        self._writing = self._writer.submit(self._write, f"{int(state.step)}-{self._start}", copied, facts)

    def wait(self) -> None:
        """Until the last checkpoint is on this host's disk, or a warning says that it is not."""
        if self._writing is not None:
            try:
                self._writing.result()
            except (OSError, SafetensorError) as error:
                _LOG.warning("host %d: a local checkpoint could not be written: %s", jax.process_index(), error)
            self._writing = None

    def restore(self, state: TrainState, batches: Batches | None, after: int) -> Restored | None:
        """The newest checkpoint of a step beyond `after` that the disks of all hosts together hold, laid out as `state`.

        Moves `batches`, where they are given, to its position. None, and a warning where there was any, if none is whole.
        Every host must call it.
        """
        layout = _Layout.of(state)
        with contextlib.ExitStack() as stack:
            mine = self._found(after, stack)
            told = exchanged(json.dumps(sorted(mine)))
            for step, start in sorted({tuple(name) for text in told for name in json.loads(text)}, reverse=True):
                own = mine.get((step, start), _Held({}, ""))
                held = process_allgather(np.array([key in own.shards for key in layout.keys]))
                missing = int(np.sum(~held.any(axis=0)))
                if missing:
                    text = "the local checkpoint of step %d is not whole: %d of %d shards lie on no host's disk"
                    if jax.process_index() == 0:
                        _LOG.warning(text, step, missing, len(layout.keys))
                    continue
                arrays = layout.arrays(own.shards, held)
                if arrays is None:
                    _LOG.warning("the local checkpoint of step %d cannot be read on one of the hosts", step)
                    continue
                facts = json.loads(next(text for text in exchanged(own.facts) if text))
                restored = state.with_arrays(arrays)
                if batches is not None:
                    _move(batches, facts["position"])
                if jax.process_index() == 0:
                    print(f"going on from the local checkpoint of step {step}", file=sys.stderr, flush=True)
                return Restored(restored, facts["record"])
        return None

    def discard(self, after: int) -> None:
        """Removes the checkpoints of steps beyond `after` from this host's disk: the run takes these steps anew."""
        self.wait()
        for (step, _), folders in _listed(self._folder).items():
            if step > after:
                _remove(folders)

    def close(self) -> None:
        """Ends the background thread, once it has written."""
        self.wait()
        self._writer.shutdown()

    def _write(self, name: str, shards: dict[str, np.ndarray], facts: str) -> None:
        with whole_folder(self._own / name, _FACTS) as scratch:
            save_file(shards, scratch / _SHARDS)
            (scratch / _FACTS).write_text(facts)
        oldest = sorted({int(path.name.partition("-")[0]) for path in self._own.glob("[0-9]*-*")})[-_KEPT:][0]
        # also what this disk has of other hosts' numbers, which were its own in an earlier start
        for (step, _), folders in _listed(self._folder).items():
            if step < oldest:
                _remove(folders)

    def _found(self, after: int, stack: contextlib.ExitStack) -> "dict[tuple[int, str], _Held]":
        """(step, start) -> what lies on this disk, under whichever host's number; files stay open as long as `stack`."""
        found = {}
        for (step, start), folders in _listed(self._folder).items():
            shards, facts = {}, ""
            for folder in folders if step > after else ():
                try:
                    file = stack.enter_context(safe_open(folder / _SHARDS, "numpy"))
                    shards |= dict.fromkeys(file.keys(), file)
                    facts = (folder / _FACTS).read_text()
                except (OSError, SafetensorError) as error:
                    _LOG.warning("%s cannot be read: %s", folder, error)
            if facts:
                found[step, start] = _Held(shards, facts)
        return found


@dataclasses.dataclass(frozen=True)
class _Held:
    """A checkpoint as far as it lies on this disk: key -> the file that has the shard, and the text of its facts."""

    shards: dict[str, Any]
    facts: str


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The shards of a state.

    Attributes:
      state: laid out over the mesh.
      keys: of every shard; equal on all hosts.
      needed: bool [hosts, keys], whose devices hold which.
      sizes: bytes of each.
    """

    state: TrainState
    keys: list[str]
    needed: np.ndarray
    sizes: list[int]

    @classmethod
    def of(cls, state: TrainState) -> "_Layout":
        hosts, sizes = collections.defaultdict(set), {}
        for name, leaf in state.arrays.items():
            size = int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
            for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
                key = _key(name, leaf, index)
                hosts[key].add(device.process_index)
                sizes[key] = size
        needed = [[host in of_key for of_key in hosts.values()] for host in range(jax.process_count())]
        return cls(state, list(hosts), np.array(needed), list(sizes.values()))

    def arrays(self, shards: dict[str, Any], held: np.ndarray) -> dict[str, jax.Array] | None:
        """The state's arrays from what lies on the disks; `held`, bool [hosts, keys], says which is where.

        None on all hosts where one of them cannot read what it has.
        """
        host, values = jax.process_index(), {}
        sources = np.argmax(held, axis=0)
        sent = np.any(self.needed & ~held, axis=0)
        read = held[host] & (self.needed[host] | (sent & (sources == host)))
        with contextlib.suppress(OSError, SafetensorError):
            values = {key: shards[key].get_tensor(key) for key, wanted in zip(self.keys, read, strict=True) if wanted}
        if not everywhere(len(values) == int(read.sum())):
            return None
        for number in np.flatnonzero(sent):
            key = self.keys[number]
            value = values.get(key, np.zeros(self.sizes[number], np.uint8))
            values[key] = multihost_utils.broadcast_one_to_all(value, is_source=host == sources[number])
        return {name: _array(name, leaf, values) for name, leaf in self.state.arrays.items()}


def _array(name: str, leaf: jax.Array, values: dict[str, np.ndarray]) -> jax.Array:
    shape = leaf.sharding.shard_shape(leaf.shape)

    def shard(index: Any) -> np.ndarray:
        return values[_key(name, leaf, index)].view(leaf.dtype).reshape(shape)

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, shard)


def _key(name: str, leaf: jax.Array, index: tuple[slice, ...]) -> str:
    """Which part of which array: two hosts' shards of one key are the same."""
    starts = [part.indices(size)[:2] for part, size in zip(index, leaf.shape, strict=True)]
    return f"{name} {leaf.dtype.name}{list(leaf.shape)} {starts}"


def _owner_of(run: Path) -> str:
    """A name for this run of this folder: neither a later one in its place nor a copy of it has the same."""
    if jax.process_index():
        return ""
    if not (run / ID).exists():
        (run / ID).write_text(secrets.token_hex(8))
    return hashlib.sha256(f"{(run / ID).read_text()} {storage.absolute(run)}".encode()).hexdigest()[:16]


def _listed(folder: pathlib.Path) -> dict[tuple[int, str], list[pathlib.Path]]:
    """(step, start) -> the whole checkpoints in `folder`, of all numbers of hosts."""
    found: dict[tuple[int, str], list[pathlib.Path]] = collections.defaultdict(list)
    for path in folder.glob("*/[0-9]*-*"):
        step, _, start = path.name.partition("-")
        found[int(step), start].append(path)
    return found


def _remove(folders: list[pathlib.Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)  # processes of one machine clear the same folders


def _position_of(batches: Batches) -> dict[str, str]:
    """The files that `batches` writes, each byte a character. All hosts stand at the same global batch."""
    with _scratch() as folder:
        batches.save(folder)
        return {str(path.relative_to(folder)): path.read_bytes().decode("latin-1") for path in _files(folder)}


def _move(batches: Batches, position: dict[str, str]) -> None:
    with _scratch() as folder:
        for name, text in position.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text.encode("latin-1"))
        batches.restore(folder)


@contextlib.contextmanager
def _scratch() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="melody-") as folder:
        yield pathlib.Path(folder)


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
