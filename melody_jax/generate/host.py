"""The chips of this host as one machine: weights whole on each, rows split over them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from melody_jax.parallel import rules
from melody_jax.parallel.batch import batch_sharding
from melody_jax.parallel.mesh import make_mesh
from melody_jax.shapes import Array


class Host:
    """Where sampling and tokenising run.

    Args:
      devices: all accelerators of this host if None; of CPUs one, which has all cores already.
    """

    def __init__(self, devices: Sequence[Any] | None = None):
        local = jax.local_devices() if devices is None else devices
        alone = devices is None and local[0].platform == "cpu"
        self._mesh = make_mesh("data=-1", local[:1] if alone else local)

    def filled(self, rows: int) -> int:
        """So many rows, and as many more as give every chip the same number."""
        return rows + -rows % self._mesh.size

    def whole(self, tree: Any) -> Any:
        """Arrays of which every chip holds all."""
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))

    def rows(self, array: np.ndarray | Array) -> Array:
        """An array [B, ...] of which every chip holds some rows; all of them where the chips do not divide B."""
        if array.shape[0] % self._mesh.size:
            return self.whole(array)
        return jax.device_put(array, batch_sharding(self._mesh))

    def compiled(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """The function under `jax.jit`, for arrays of `whole` and `rows`."""
        return jax.jit(rules.on_mesh(function, self._mesh), **options)
