"""Where activations lie on a mesh: the rows of every map's output as the batch, its last axis as the kernel's.

Parameters carry their logical axes with them; activations get theirs here, as they leave the maps. Without it the
partitioner sees only inputs and parameters, and may gather a batch in order to keep a parameter split.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax.linen import spmd
from jax.sharding import Mesh, PartitionSpec

from melody_jax.shapes import Array

Rules = tuple[tuple[str, tuple[str, ...]], ...]
Axes = tuple[str | None, ...]

_OFF_TPU: contextvars.ContextVar[bool] = contextvars.ContextVar("off_tpu", default=False)
_PLACE: contextvars.ContextVar[tuple[Mesh, Rules] | None] = contextvars.ContextVar("activations", default=None)


@contextlib.contextmanager
def placed(mesh: Mesh, rules: Rules) -> Iterator[None]:
    """What is traced inside has its activations on `mesh`, logical axes turned into mesh axes by `rules`.

    An activation's rows take their mesh axes first; an axis that wants one of these stays whole ("embed" is split over
    fsdp in a parameter, never in an activation).
    """
    token = _PLACE.set((mesh, rules))
    try:
        yield
    finally:
        _PLACE.reset(token)


def constrain(x: Array, last: str) -> Array:
    """x [B, ..., C] with logical axes "batch" and `last`; as it is outside `placed`, and where a size does not divide."""
    place = _PLACE.get()
    if place is None or place[0].size == 1 or x.ndim < 2:
        return x
    mesh, rules = place
    axes = _dividing(x.shape, ("batch", *[None] * (x.ndim - 2), last))
    return spmd.with_logical_constraint(x, axes, rules=rules, mesh=mesh)


@contextlib.contextmanager
def off_tpu() -> Iterator[None]:
    """What is traced inside has no kernels: a count of its operations sees all of them."""
    token = _OFF_TPU.set(True)
    try:
        yield
    finally:
        _OFF_TPU.reset(token)


def platform() -> str:
    """Where what is traced runs: on devices of the mesh, which may not be here, or of this process without one."""
    place = _PLACE.get()
    return jax.default_backend() if place is None else place[0].devices.flat[0].platform


def on_tpu() -> bool:
    """Whether what is traced runs on TPUs, and may use what is made for them."""
    return platform() == "tpu" and not _OFF_TPU.get()


def kernels_run() -> bool:
    """Whether Pallas kernels run: on TPUs, one or those of a known mesh. Other code that splits arrays (T5X) has none."""
    return on_tpu() and (_PLACE.get() is not None or jax.device_count() == 1)


def per_chip(function: Callable[..., Any], inputs: tuple[Axes, ...], outputs: Any) -> Callable[..., Any]:
    """The function on the part of its arguments that a chip holds, for kernels, which the partitioner cannot split.

    Args:
      function: of arrays.
      inputs: logical axes of every argument; a size that does not divide stays whole.
      outputs: logical axes of its result, or a tuple of those of each; they divide where those of the inputs do.
    """

    def split(*arguments: Any) -> Any:
        place = _PLACE.get()
        if place is None or place[0].size == 1:
            return function(*arguments)
        mesh, table = place[0], dict(place[1])
        kept = [_dividing(x.shape, axes) for x, axes in zip(arguments, inputs, strict=True)]
        whole = {axis for axes, left in zip(inputs, kept, strict=True) for axis in set(axes) - set(left)}

        def spec(axes: Axes) -> PartitionSpec:
            return PartitionSpec(*[None if axis is None or axis in whole else table[axis] for axis in axes])

        several = bool(outputs) and isinstance(outputs[0], tuple)
        results = tuple(map(spec, outputs)) if several else spec(outputs)
        specs = tuple(map(spec, inputs))
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=results, check_vma=False)(*arguments)

    return split


def share(size: int, axis: str) -> int:
    """What a chip holds of an activation's `size` along a logical axis: all of it where it does not divide."""
    place = _PLACE.get()
    if place is None:
        return size
    chips = math.prod(place[0].shape[mesh_axis] for mesh_axis in dict(place[1])[axis])
    return size // chips if size % chips == 0 else size


def _dividing(shape: tuple[int, ...], axes: Axes) -> Axes:
    """The logical axes, None for those that split nothing: of one chip, or of more than divide the size."""
    return tuple(axis if axis and share(size, axis) < size else None for size, axis in zip(shape, axes, strict=True))
