"""Values of a network that are measured on data, not learnt: running means, centres, scales, moments.

They are flax's collection "measured", beside "params"; no optimiser knows of them. In a finished part both lie in one tree,
each under its own name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from melody_jax.shapes import Array

MEASURED = "measured"


def measured(
    module: nn.Module,
    name: str,
    init: Callable[..., Any],
    shape: Sequence[int],
    axes: Sequence[str | None],
    dtype: str = "float32",
) -> Array:
    """A measured value of a module, which no gradient reaches; `init` where the module is called without the collection.

    Args:
      init: (key, shape, dtype) -> value before it is measured; it does not read the key.
      axes: logical axes, as of parameters.
    """
    arguments = None, tuple(shape), jnp.dtype(dtype)
    if not module.is_initializing() and MEASURED not in module.variables:
        return init(*arguments)
    found = module.variable(MEASURED, name, nn.with_logical_partitioning(init, tuple(axes)), *arguments)
    return jax.lax.stop_gradient(jnp.asarray(found.value))


def variables(params: Any, found: Any = None) -> dict[str, Any]:
    """What `Module.apply` takes: of parameters and measured values, or of the one tree of a part, which has both."""
    return {"params": params, MEASURED: params if found is None else found}


def joined(params: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters and measured values in one tree, as a part holds them."""
    both = dict(params)
    for name, value in found.items():
        both[name] = joined(params.get(name, {}), value) if isinstance(value, Mapping) else value
    return both


def identity(key: Any, shape: tuple[int, int], dtype: Any) -> Array:
    """An initialiser: the unit matrix."""
    return jnp.eye(*shape, dtype=dtype)
