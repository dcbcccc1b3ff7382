"""Which rows of the global batch a host reads, and how the rows of all hosts become one global array."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from melody_jax.errors import UserError
from melody_jax.parallel.init import to_host
from melody_jax.parallel.rules import RULES, AnyMesh, on_mesh, spec_for
from melody_jax.samples import from_int16

_NARROW = (np.dtype(np.int16), np.dtype(np.float16))


class HostShard(NamedTuple):
    """This host reads the `index`-th of `count` equal shares of the data."""

    index: int
    count: int


@functools.cache
def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows are split over all mesh axes that split the batch, other dimensions over none."""
    return NamedSharding(mesh, spec_for(("batch",)))


@functools.cache
def batch_shards(mesh: AnyMesh) -> int:
    """Into how many parts the mesh splits a batch."""
    return int(np.prod([mesh.shape[axis] for axis in RULES["batch"]]))


def check_batch_size(batch_size: int, mesh: AnyMesh) -> None:
    """Raises UserError where the mesh does not divide the global batch."""
    if batch_size % batch_shards(mesh):
        split = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in RULES["batch"] if mesh.shape[axis] > 1)
        raise UserError(f"a global batch of {batch_size} does not divide over {split}")


@functools.cache
def host_shard(mesh: Mesh) -> HostShard:
    """The share of the data that this host reads. Hosts that hold the same rows (tensor across hosts) read the same."""
    shards = batch_shards(mesh)
    rows = batch_sharding(mesh).devices_indices_map((shards,))
    mine = {
        index[0].indices(shards)[0] for device, index in rows.items() if device.process_index == jax.process_index()
    }
    first, count = min(mine), len(mine)
    if shards % count or first % count or mine != set(range(first, first + count)):
        raise UserError(f"the mesh {dict(mesh.shape)} gives a host rows of the batch that are not one equal share")
    return HostShard(index=first // count, count=shards // count)


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This host's rows [B / hosts, ...] as (its part of) global arrays [B, ...], split over the mesh.

    int16 sound and float16 arrays are sent as they are, half the bytes, and become float32 on the devices.

    Raises:
      UserError: the global batch does not divide over the mesh.
    """
    sharding, count = batch_sharding(mesh), host_shard(mesh).count
    placed = {}
    for name, rows in batch.items():
        shape = (rows.shape[0] * count, *rows.shape[1:])
        check_batch_size(shape[0], mesh)
        array = jax.make_array_from_process_local_data(sharding, np.asarray(rows), shape)
        placed[name] = _widen_on(sharding)(array) if rows.dtype in _NARROW else array
    return placed


def widened(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A host's batch with the values that it has on devices, for measurements on the host."""
    return {name: _widen(array) if array.dtype in _NARROW else array for name, array in batch.items()}


def _widen(array: Any) -> Any:
    """int16 sound to float32 in [-1, 1), float16 to float32; host and devices get the same bits."""
    return from_int16(array) if array.dtype == np.int16 else array.astype(np.float32)


@functools.cache
def _widen_on(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(_widen, out_shardings=sharding)


def measure_batches(
    function: Callable[[Any, dict[str, jax.Array]], Any],
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
) -> Iterator[Any]:
    """`function(variables, batch)` of each batch, computed on the mesh and returned whole on every host. All hosts must
    call it.

    One batch at a time: on CPUs the collectives of several running programs would deadlock.
    """
    program = jax.jit(on_mesh(function, mesh))
    for batch in batches:
        yield to_host(program(variables, place_batch(batch, mesh)))
