"""The device mesh: four axes, of which any may be 1.

replica  whole copies of the model, one per slice of a pod (the slow network); gradients are summed over it
data     whole copies within a slice
fsdp     the batch is split as over `data`, and parameters and optimiser state are split too
tensor   single layers are split
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from melody_jax.errors import UserError

AXES = ("replica", "data", "fsdp", "tensor")
DEFAULT = "data=-1"


def parse_mesh(spec: str, devices: int) -> dict[str, int]:
    """The size of every axis from e.g. "data=-1,fsdp=4,tensor=2"; axes left out are 1, one -1 takes what is left.

    Raises:
      UserError: an unknown or repeated axis, a size that is no positive integer or -1, more than one -1, or sizes
        whose product is not the number of devices.
    """
    sizes: dict[str, int] = {}
    for item in filter(None, (item.strip() for item in spec.split(","))):
        axis, _, size = item.partition("=")
        if axis not in AXES:
            raise UserError(f"mesh {spec!r}: unknown axis {axis!r}; the axes are {', '.join(AXES)}")
        if axis in sizes:
            raise UserError(f"mesh {spec!r}: axis {axis} is given twice")
        try:
            sizes[axis] = int(size)
        except ValueError:
            raise UserError(f"mesh {spec!r}: the size of {axis} is {size!r}, not an integer") from None
        if sizes[axis] < 1 and sizes[axis] != -1:
            raise UserError(f"mesh {spec!r}: the size of {axis} must be positive, or -1 for what is left")
    sizes = {axis: sizes.get(axis, 1) for axis in AXES}
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise UserError(f"mesh {spec!r}: only one axis can be -1, not {' and '.join(open_axes)}")
    known = math.prod(size for size in sizes.values() if size != -1)
    if open_axes:
        sizes[open_axes[0]] = max(devices // known, 1)
    if math.prod(sizes.values()) != devices:
        needed = f"a multiple of {known}" if open_axes else str(known)
        raise UserError(f"mesh {spec!r} needs {needed} devices and there are {devices}")
    return sizes


def axis_between_slices(spec: str, sizes: Mapping[str, int], slices: int) -> str:
    """The mesh axis that crosses the slow network between slices: `replica` or, if the number of slices does not divide
    it, `data`.

    Raises:
      UserError: it divides neither.
    """
    outer = next((axis for axis in ("replica", "data") if sizes[axis] % slices == 0), None)
    if outer is None:
        raise UserError(f"mesh {spec!r}: {slices} slices want replica={slices}, or a multiple of it on data")
    return outer


def make_mesh(spec: str = DEFAULT, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of `parse_mesh` over `devices` (default: all of all hosts), placed by their physical topology.

    With several slices, one axis crosses the slow network between them (DCN; `axis_between_slices`), and the others
    stay inside a slice (ICI).

    Raises:
      UserError: see `parse_mesh` and `axis_between_slices`.
    """
    devices = jax.devices() if devices is None else devices
    sizes = parse_mesh(spec, len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        grid = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    else:
        outer = axis_between_slices(spec, sizes, slices)
        between = tuple(slices if axis == outer else 1 for axis in AXES)
        within = tuple(size // count for size, count in zip(sizes.values(), between, strict=True))
        grid = mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
