"""Where activations lie on a mesh: the output of every linear map is split along its rows as the batch is, and along
its last axis as the map's kernel is.

Parameters carry their logical axes; activations get theirs here, as outputs of the maps. Otherwise XLA's partitioner
knows only inputs and parameters, and may gather a batch to keep a parameter split.
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
    """Code traced in this context has its activations on `mesh`; `rules` turn logical axes into mesh axes.

    The rows of an activation take their mesh axes first. Another axis that would use one of these is not split ("embed"
    is split over fsdp in parameters, never in activations).
    """
    token = _PLACE.set((mesh, rules))
    try:
        yield
    finally:
        _PLACE.reset(token)


def constrain(x: Array, last: str) -> Array:
    """x [B, ..., C] with logical axes "batch" and `last`. Returned as it is outside `placed`, and where a size does not
    divide."""
    place = _PLACE.get()
    if place is None or place[0].size == 1 or x.ndim < 2:
        return x
    mesh, rules = place
    axes = _dividing(x.shape, ("batch", *[None] * (x.ndim - 2), last))
    return spmd.with_logical_constraint(x, axes, rules=rules, mesh=mesh)


@contextlib.contextmanager
def off_tpu() -> Iterator[None]:
    """Code traced in this context uses no kernels, so that all of its operations can be counted."""
    token = _OFF_TPU.set(True)
    try:
        yield
    finally:
        _OFF_TPU.reset(token)


def platform() -> str:
    """The platform that the traced code will run on: that of the mesh, which may be on other machines, else this
    process's."""
    place = _PLACE.get()
    return jax.default_backend() if place is None else place[0].devices.flat[0].platform


def on_tpu() -> bool:
    """Whether the traced code will run on TPUs, and may use what is made for them."""
    return platform() == "tpu" and not _OFF_TPU.get()


def kernels_run() -> bool:
    """Whether Pallas kernels run: on a single TPU, or on TPUs of a mesh known from `placed`. Under T5X, which splits
    arrays itself, they do not."""
    return on_tpu() and (_PLACE.get() is not None or jax.device_count() == 1)


def per_chip(function: Callable[..., Any], inputs: tuple[Axes, ...], outputs: Any) -> Callable[..., Any]:
    """The function applied to each chip's share of its arguments: XLA's partitioner cannot split a kernel.

    Args:
      function: of arrays.
      inputs: logical axes of every argument; a size that does not divide stays whole.
      outputs: logical axes of its result, or of each of several results; these divide if those of the inputs do.
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
    """How much of an activation's `size` along a logical axis one chip holds: all of it if it does not divide."""
    place = _PLACE.get()
    if place is None:
        return size
    chips = math.prod(place[0].shape[mesh_axis] for mesh_axis in dict(place[1])[axis])
    return size // chips if size % chips == 0 else size


def _dividing(shape: tuple[int, ...], axes: Axes) -> Axes:
    """The logical axes, with None for each that is not split: it has one chip, or a number of chips that does not
    divide the size."""
    return tuple(axis if axis and share(size, axis) < size else None for size, axis in zip(shape, axes, strict=True))
