"""The one table from logical axes to mesh axes, and the shardings that follow from it."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from melody_jax.errors import UserError
from melody_jax.parallel import activations

PyTree = Any
Rules = Mapping[str, tuple[str, ...]]
AnyMesh = Mesh | AbstractMesh
"""Of devices of this run, or of a number of devices that are elsewhere."""

# Widths that layers read are split over fsdp, as the optimiser state is; widths that they write are split over tensor,
# so that a pair of products (in: embed -> mlp, out: mlp -> embed) needs one reduction.
RULES: Rules = {
    "batch": ("replica", "data", "fsdp"),
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv": ("tensor",),
    "vocab": ("tensor",),
    "codes": ("tensor",),
    "joint": (),
    "input": (),
    "conv_in": ("fsdp",),
    "conv_out": ("tensor",),
    "layers": (),
    "norm": (),
    "time": (),
}


def spec_for(axes: tuple[str | None, ...], rules: Rules = RULES, parameter: str = "parameter") -> PartitionSpec:
    """The PartitionSpec of a parameter with these logical axes (None: not split).

    Raises:
      UserError: an axis is not in the table, or two axes of the parameter are on one mesh axis.
    """
    taken: dict[str, str] = {}
    spec: list[Any] = []
    for axis in axes:
        if axis is not None and axis not in rules:
            raise UserError(f"{parameter}: logical axis {axis!r} is not in the table; it knows {', '.join(rules)}")
        mesh_axes = () if axis is None else rules[axis]
        for mesh_axis in mesh_axes:
            if mesh_axis in taken:
                raise UserError(
                    f"{parameter} with axes {axes}: {taken[mesh_axis]!r} and {axis!r} both lie on mesh axis {mesh_axis}"
                )
            taken[mesh_axis] = str(axis)
        spec.append(mesh_axes[0] if len(mesh_axes) == 1 else mesh_axes or None)
    return PartitionSpec(*spec)


def on_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """The function, to be jitted, with its activations laid out on the mesh as the table says."""

    @functools.wraps(function)
    def placed(*arguments: Any, **named: Any) -> Any:
        with activations.placed(mesh, tuple(RULES.items())):
            return function(*arguments, **named)

    return placed


def shardings(tree: PyTree, mesh: AnyMesh, rules: Rules = RULES) -> PyTree:
    """A NamedSharding for every leaf of an (abstract) tree; flax's boxes carry the logical axes; leaves without a box
    are not split.

    The result has the structure of the unboxed tree. A dimension of size 1 (the channel of a waveform) is not split.

    Raises:
      UserError: see `spec_for`; or a dimension that its mesh axes do not divide, named in one sentence.
    """

    def sharding(path: tuple, leaf: Any) -> PyTree:
        if not isinstance(leaf, nn.LogicallyPartitioned):
            return NamedSharding(mesh, PartitionSpec())
        if not jax.tree.leaves(leaf.value):  # what optax masks out inside the box
            return leaf.value
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        shape = leaf.value.shape
        if len(leaf.names) != len(shape):
            raise UserError(f"{name}: {len(leaf.names)} logical axes {leaf.names} for {len(shape)} dimensions {shape}")
        axes = tuple(None if size == 1 else axis for size, axis in zip(shape, leaf.names, strict=True))
        spec = spec_for(axes, rules, name)
        for dimension, (size, axis) in enumerate(zip(shape, axes, strict=True)):
            split = {mesh_axis: mesh.shape[mesh_axis] for mesh_axis in (rules[axis] if axis else ())}
            if size % math.prod(split.values()):
                over = ", ".join(f"{mesh_axis}={count}" for mesh_axis, count in split.items())
                raise UserError(f"{name}: dimension {dimension} ({axis}) of size {size} does not divide over {over}")
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(
        sharding, tree, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    )
