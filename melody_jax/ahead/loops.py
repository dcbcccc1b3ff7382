"""What a program with loops costs, told by a compiler that counts the body of a loop once.

A stack of L layers is a loop whose body holds u of them (`unroll`). The same program with a body of m u layers, m u a
divisor of L, costs what (m - 1) u more layers cost; so what the other L - u layers cost is known without compiling them.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from melody_jax.ahead.program import Cost

Path = tuple[str, ...]


def stacks(config: Any, path: Path = ()) -> Iterator[tuple[Path, int, int]]:
    """(where it is, L, u) of every stack that is a loop: nested dataclasses with `layers` L and `unroll` u < L."""
    names = {field.name for field in dataclasses.fields(config)}
    if {"layers", "unroll"} <= names and config.unroll < config.layers:
        yield path, config.layers, config.unroll
    for name in sorted(names):
        value = getattr(config, name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from stacks(value, (*path, name))


def unrolled(config: Any, path: Path, layers: int) -> Any:
    """The config with so many layers in the body of one stack."""
    if not path:
        return dataclasses.replace(config, unroll=layers)
    return dataclasses.replace(config, **{path[0]: unrolled(getattr(config, path[0]), path[1:], layers)})


def whole_cost(config: Any, cost: Cost, compile_cost: Callable[[Any], Cost]) -> Cost:
    """The cost of the program of `config` with all rounds of its loops over layers in `seconds` and `flops`.

    Args:
      config: a dataclass with the stacks, somewhere.
      cost: of its program, as the compiler told it.
      compile_cost: config -> the same of another one; called once for every stack.
    """
    seconds, flops = cost.seconds, cost.flops
    for path, layers, body in stacks(config):
        longer = next(size for size in range(2 * body, layers + 1, body) if layers % size == 0)
        other = compile_cost(unrolled(config, path, longer))
        rounds = (layers - body) / (longer - body)
        seconds += rounds * (other.seconds - cost.seconds)
        flops += rounds * (other.flops - cost.flops)
    return dataclasses.replace(cost, seconds=seconds, flops=flops)
