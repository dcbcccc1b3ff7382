"""Where activations lie on a mesh: the rows of every map's output as the batch, its last axis as the kernel's.

Parameters carry their logical axes with them; activations get theirs here, as they leave the maps. Without it the
partitioner sees only inputs and parameters, and may gather a batch in order to keep a parameter split.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator

from flax.linen import spmd
from jax.sharding import Mesh

from melody_jax.shapes import Array

Rules = tuple[tuple[str, tuple[str, ...]], ...]

_PLACE: contextvars.ContextVar[tuple[Mesh, Rules] | None] = contextvars.ContextVar("activations", default=None)


@contextlib.contextmanager
def placed(mesh: Mesh, rules: Rules) -> Iterator[None]:
    """What is traced inside has its activations on `mesh`, logical axes turned into mesh axes by `rules`.

    An activation's rows take their mesh axes first; an axis that wants one of these stays whole ("embed" is split over
    fsdp in a parameter, never in an activation).
    """
    token = _PLACE.set((mesh, rules) if mesh.size > 1 else None)
    try:
        yield
    finally:
        _PLACE.reset(token)


def constrain(x: Array, last: str) -> Array:
    """x [B, ..., C] with logical axes "batch" and `last`; as it is outside `placed`, and where a size does not divide."""
    place = _PLACE.get()
    if place is None or x.ndim < 2:
        return x
    mesh, rules = place
    table = dict(rules)

    def divides(size: int, axis: str) -> bool:
        return size % math.prod(mesh.shape[mesh_axis] for mesh_axis in table[axis]) == 0

    rows = "batch" if divides(x.shape[0], "batch") else None
    columns = last if divides(x.shape[-1], last) else None
    return spmd.with_logical_constraint(x, (rows, *[None] * (x.ndim - 2), columns), rules=rules, mesh=mesh)
