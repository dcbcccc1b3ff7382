"""Sharded initialisation, without a whole copy of a sharded state on any device or host; and the way back to whole
arrays."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from melody_jax.parallel import rules
from melody_jax.parallel.hosts import compiled, process_allgather

PyTree = Any


def abstract_state(init: Callable[[jax.Array], PyTree], mesh: rules.AnyMesh) -> PyTree:
    """Shapes, dtypes and shardings of the unboxed result of `init(key)`; allocates nothing.

    Raises:
      UserError: the parameters do not fit the mesh (`rules.shardings`).
    """
    boxed = jax.eval_shape(init, jax.ShapeDtypeStruct((2,), np.uint32))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nn.unbox(boxed),
        rules.shardings(boxed, mesh),
    )


def sharded_init(init: Callable[[jax.Array], PyTree], key: jax.Array, mesh: Mesh) -> PyTree:
    """`init(key)`, unboxed, with every leaf created on the devices that the rules give it. The values do not depend on
    the mesh."""
    layout = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(init, mesh))
    return compiled(jax.jit(lambda key: nn.unbox(init(key)), out_shardings=layout), key)(key)


def place(array: np.ndarray | jax.Array, sharding: Sharding) -> jax.Array:
    """A host array that every process holds whole, placed as `sharding` says; a jax.Array already there is kept."""
    if isinstance(array, jax.Array) and array.sharding.is_equivalent_to(sharding, array.ndim):
        return array
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def spread(sharding: Sharding, shape: tuple[int, ...]) -> Sharding:
    """The sharding with its copies split too, along the first dimension that divides: every element is on one device.

    The same where no dimension of a shard divides by the number of copies. So also does orbax split what it writes.
    """
    if not isinstance(sharding, NamedSharding):
        return sharding
    axes = [(part,) if isinstance(part, str) else part or () for part in sharding.spec]
    axes += [()] * (len(shape) - len(axes))
    free = tuple(axis for axis in sharding.mesh.axis_names if not any(axis in part for part in axes))
    copies = math.prod(sharding.mesh.shape[axis] for axis in free)
    for dimension, size in enumerate(sharding.shard_shape(shape)):
        if size % copies == 0:
            axes[dimension] += free
            return NamedSharding(sharding.mesh, PartitionSpec(*axes))
    return sharding


def gathered(arrays: Mapping[str, jax.Array], layout: Mapping[str, Sharding]) -> dict[str, jax.Array]:
    """The arrays laid out as `layout` says, by one program of collectives; every host must call it."""
    given = dict(arrays)
    return compiled(jax.jit(dict, out_shardings=dict(layout)), given)(given)


def to_host(tree: PyTree, first_only: bool = False) -> PyTree:
    """The tree with every leaf whole, as a NumPy array, on every host; all hosts must call it. Leaves that are NumPy
    arrays stay.

    Args:
      first_only: the other hosts keep nothing: they have None for every leaf, and one leaf at a time in memory.
    """

    def whole(leaf: Any) -> np.ndarray | None:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            array = leaf
        elif leaf.is_fully_replicated:
            array = leaf.addressable_data(0)
        else:
            array = process_allgather(leaf, tiled=True)
        return np.asarray(array) if jax.process_index() == 0 or not first_only else None

    return jax.tree.map(whole, tree)
