"""Counts the floating-point operations of a function from its trace: nothing is compiled, no array is made.

Model FLOPs in the sense of MFU (Chowdhery et al., "PaLM", 2022, appendix B): two for each multiply-accumulate of matrix
products and convolutions, the bodies of loops as often as they run. Elementwise work, reductions and FFTs are left out, and
so are, of configurations made by `without_remat`, products that are computed twice.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from melody_jax.parallel import activations


def count(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs of `function` at arguments that are arrays or ShapeDtypeStructs.

    Raises:
      ValueError: a `while` loop around products, whose number of rounds no trace tells.
    """
    with activations.off_tpu():
        return _jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def without_remat(config: Any) -> Any:
    """A dataclass whose fields, and theirs, recompute nothing: model FLOPs count every product once."""
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "remat":
            changes["remat"] = "none"
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[field.name] = without_remat(value)
    return dataclasses.replace(config, **changes)


def _jaxpr(jaxpr: Jaxpr) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        left = equation.invars[0].aval.shape
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[params["dimension_numbers"].rhs_spec[0]]
        taps = math.prod(kernel) // features
        # between the samples of a dilated input there are only zeros: transposed convolutions, gradients of strided ones
        return 2 * math.prod(equation.outvars[0].aval.shape) * taps // math.prod(params["lhs_dilation"])
    inner = [_jaxpr(jaxpr) for jaxpr in _inner(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "while" and any(inner):
        raise ValueError("flops: a while loop runs matrix products an unknown number of times")
    return sum(inner)


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs that an equation calls."""
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(each, ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, Jaxpr):
                yield each
