"""What a compiled program costs: memory, operations, communication, and time as far as the compiler can tell."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import jax

PyTree = Any

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
_SHAPE = re.compile(r"\b(" + "|".join(_BYTES) + r")\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{")
_CALL = re.compile(r"(?:calls|body|to_apply|condition|branch_computations)=\{?%?([\w.\-]+(?:, ?%[\w.\-]+)*)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run of a program, per chip unless said otherwise.

    As the compiler tells them, `flops` and `seconds` have the body of a loop once (`loops.whole_cost`).

    Attributes:
      argument_bytes: what it is given.
      output_bytes: what it returns beyond donated arguments.
      temporary_bytes: activations and other intermediate results.
      peak_bytes: most that lies in memory at once.
      flops: hardware operations, recomputation included.
      collectives: kind -> (how often, bytes that a chip receives).
      seconds: the compiler's own estimate of the time.
    """

    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    peak_bytes: int
    flops: float
    collectives: dict[str, tuple[int, int]]
    seconds: float


def cost_of(compiled: Any) -> Cost:
    """Reads a `jax.stages.Compiled`."""
    memory, analysis = compiled.memory_analysis(), compiled.cost_analysis()
    output = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Cost(
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=output,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=memory.argument_size_in_bytes + output + memory.temp_size_in_bytes,
        flops=float(analysis.get("flops", 0.0)),
        collectives=collectives_of(compiled.as_text()),
        seconds=float(analysis.get("optimal_seconds", 0.0)),
    )


def bytes_per_chip(tree: PyTree) -> int:
    """Of abstract arrays with shardings, on the chip that holds most."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def collectives_of(text: str) -> dict[str, tuple[int, int]]:
    """Kind -> (how often, bytes received by a chip) in an HLO module's text; loop bodies as often as they run."""
    bodies: dict[str, list[str]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        match = _COMPUTATION.match(line)
        if match:
            current = match[1]
            bodies[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current:
            bodies[current].append(line)
    found: dict[str, tuple[int, int]] = {kind: (0, 0) for kind in COLLECTIVES}
    for kind, size, times in _walk(bodies, entry, 1):
        count, total = found[kind]
        found[kind] = (count + times, total + times * size)
    return {kind: value for kind, value in found.items() if value[0]}


def _walk(bodies: dict[str, list[str]], name: str, times: int) -> Iterator[tuple[str, int, int]]:
    """(kind, bytes, how often) of every collective in a computation and those that it calls."""
    for line in bodies.get(name, ()):
        _, _, right = line.partition(" = ")
        kind = next((kind for kind in COLLECTIVES if re.search(rf" {kind}(-start)?\(", " " + right)), None)
        if kind:
            result = right[: right.index(kind)]
            sizes = [_size(*shape) for shape in _SHAPE.findall(result)]
            # a -start gives its operand beside its result
            yield kind, max(sizes, default=0) if f"{kind}-start(" in right else sum(sizes), times
        trips = _TRIPS.search(right)
        inner = times * int(trips[1]) if trips and " while(" in right else times
        for called in _CALL.findall(right):
            for other in called.replace("%", "").split(","):
                if not kind:
                    yield from _walk(bodies, other.strip(), inner)


def _size(dtype: str, dimensions: str) -> int:
    return _BYTES[dtype] * math.prod(int(size) for size in dimensions.split(",") if size)
