"""What a compiled program costs: memory, communication, and time as far as the compiler tells it.

The TPU compiler notes an estimate in cycles at every fusion, but not at collectives. The compute time is the sum of
these estimates, with loop bodies counted as often as they run. (`cost_analysis()["optimal_seconds"]` counts a loop's
body once, and counts an operation that it does not know, such as an asynchronous collective, as minus one second.)
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax

PyTree = Any

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
_SHAPE = re.compile(r"\b(" + "|".join(_BYTES) + r")\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{")
_CALL = re.compile(r"\b(?:calls|body|to_apply|branch_computations)=\{?%?([\w.\-]+(?:, ?%[\w.\-]+)*)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)")
_LESS = re.compile(r"ROOT .* compare\([^%]*%?[\w.\-]+, [^%]*%?([\w.\-]+)\), direction=LT")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_UNKNOWN = 1 << 62  # the compiler's largest number: it cannot estimate this operation
_NAME = re.compile(r"\s*(?:ROOT )?%?([\w\-]+_steps)[_.\d]* = ")
MEGASCALE = "xla_megascale_runtime"
"""Handles what goes between slices."""
_TARGETS = re.compile(r'_xla_megascale_target="\{([^}"]*)\}')
KERNEL = 'custom_call_target="tpu_custom_call"'
_PLACE = re.compile(r'metadata=\{[^}]*op_name="([^"]*)"')
_TRANSFORMED = re.compile(r"(?:transpose|jvp|vmap)\((.*)\)$")
_WRAPPER = re.compile(r"jit\(.*\)|while|body|cond|closed_call|checkpoint|remat.*|shard_map|\w*\.\w+|")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_CHIPS = re.compile(r"^HloModule .*\bnum_partitions=(\d+)")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run of a program, per chip.

    Attributes:
      argument_bytes: what it is given.
      output_bytes: what it returns beyond donated arguments.
      temporary_bytes: activations and other intermediate results.
      peak_bytes: most that lies in memory at once.
      collectives: kind -> (how often it runs, bytes that a chip receives).
      blocking: the same for collectives that overlap with nothing.
      network_bytes: bytes that a chip receives from other slices, over the data centre's network.
      cycles: the compiler's estimate for everything but communication; 0 where the compiler makes none (CPUs).
      unknown: number of operations without an estimate; they count as 0.
      operations: (place in the model, how often, cycles in total), slowest first.
    """

    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    peak_bytes: int
    collectives: dict[str, tuple[int, int]]
    cycles: int
    unknown: int
    operations: tuple[tuple[str, int, int], ...] = ()
    blocking: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    network_bytes: int = 0


def cost_of(
    compiled: Any,
    kernels: Mapping[str, int] = MappingProxyType({}),
    bytes_per_cycle: float = math.inf,
    operations: int = 0,
) -> Cost:
    """Reads a `jax.stages.Compiled`.

    Args:
      compiled: what the compiler made.
      kernels: cycles of its Pallas kernels, see `ahead.kernels`.
      bytes_per_cycle: bytes that a chip reads or writes in a cycle; a kernel takes at least the time to move its
        operands.
      operations: how many places are listed.
    """
    memory = compiled.memory_analysis()
    output = memory.output_size_in_bytes - memory.alias_size_in_bytes
    program = Program(compiled.as_text())
    cycles, unknown = program.cycles(kernels, bytes_per_cycle)
    return Cost(
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=output,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=memory.argument_size_in_bytes + output + memory.temp_size_in_bytes,
        collectives=program.collectives(),
        cycles=cycles,
        unknown=unknown,
        operations=program.costliest(operations, kernels, bytes_per_cycle) if operations else (),
        blocking=program.collectives(blocking=True),
        network_bytes=program.network_bytes(),
    )


def bytes_per_chip(tree: PyTree) -> int:
    """Bytes of abstract arrays with shardings, on the chip that holds most of them."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Program:
    """An optimised HLO module, from its text."""

    def __init__(self, text: str):
        self._bodies: dict[str, list[str]] = {}
        self._entry = current = ""
        header = _CHIPS.search(text)
        self._chips = int(header[1]) if header else 1
        for line in text.splitlines():
            match = _COMPUTATION.match(line)
            if match:
                current = match[1]
                self._bodies[current] = []
                self._entry = current if line.startswith("ENTRY") else self._entry
            elif current:
                self._bodies[current].append(line)

    def cycles(
        self, kernels: Mapping[str, int] = MappingProxyType({}), bytes_per_cycle: float = math.inf
    ) -> tuple[int, int]:
        """(sum of the compiler's estimates over everything that runs, number of operations without an estimate)."""
        estimates = [(times, cycles) for _, times, cycles in self._estimates(kernels, bytes_per_cycle)]
        known = sum(times * cycles for times, cycles in estimates if cycles is not None)
        return known, sum(cycles is None for _, cycles in estimates)

    def costliest(
        self, count: int, kernels: Mapping[str, int] = MappingProxyType({}), bytes_per_cycle: float = math.inf
    ) -> tuple[tuple[str, int, int], ...]:
        """(place, how often, cycles in total) of the `count` slowest places in the model."""
        found: dict[str, tuple[int, int]] = {}
        for line, times, cycles in self._estimates(kernels, bytes_per_cycle):
            place = _PLACE.search(line)
            where = _place(place[1]) if place else "elsewhere"
            often, total = found.get(where, (0, 0))
            found[where] = often + times, total + times * (cycles or 0)
        ordered = sorted(found.items(), key=lambda item: -item[1][1])
        return tuple((where, often, total) for where, (often, total) in ordered[:count])

    def _estimates(self, kernels: Mapping[str, int], bytes_per_cycle: float) -> Iterator[tuple[str, int, int | None]]:
        """(instruction, how often it runs, cycles of one run, None where the compiler has no estimate)."""
        for line, times, fusion in self._walk(self._entry, 1):
            estimate, name = _CYCLES.search(line), _NAME.match(line)
            if KERNEL in line and name and name[1] in kernels:
                moved = sum(_size(*shape) for shape in _SHAPE.findall(_passed(line)))
                yield line, times, max(kernels[name[1]], round(moved / bytes_per_cycle))
            elif KERNEL in line or (estimate and int(estimate[1]) >= _UNKNOWN):
                yield line, times, None
            elif estimate and not fusion:
                yield line, times, int(estimate[1])

    def collectives(self, blocking: bool = False) -> dict[str, tuple[int, int]]:
        """Kind -> (how often, bytes that a chip receives, on a ring) of all collectives, or only of those that overlap
        with nothing.

        A collective overlaps with the operations in its asynchronous fusion, or between its start and its end. The
        compiler may cut a collective (a channel) into steps inside several fusions: it is one collective, which runs as
        often as the least frequent of these steps. The compiler writes a reduce-scatter as a fusion of an all-reduce
        and a slice.
        """
        channels: dict[Any, list[tuple[str, int, int, bool]]] = defaultdict(list)
        for line, times, fusion in self._walk(self._entry, 1):
            _, _, right = line.partition(" = ")
            kind = next((kind for kind in COLLECTIVES if re.search(rf" {kind}(-start)?\(", " " + right)), None)
            if kind:
                size, scatter = _received(kind, right, self._chips), fusion.startswith("all-reduce-scatter")
                channel = _CHANNEL.search(right) if fusion and not scatter else None
                beside = bool(fusion and not scatter) or f"{kind}-start(" in right
                step = ("reduce-scatter", size // 2, times, beside) if scatter else (kind, size, times, beside)
                channels[(kind, channel[1]) if channel else line].append(step)
        found: dict[str, tuple[int, int]] = {}
        for steps in channels.values():
            kind, size, times, _ = min(steps, key=lambda step: step[2])
            if blocking and any(beside for *_, beside in steps):
                continue
            count, total = found.get(kind, (0, 0))
            found[kind] = (count + times, total + times * size)
        return {kind: found[kind] for kind in COLLECTIVES if kind in found}

    def network_bytes(self) -> int:
        """Bytes that a chip receives from other slices, through its host: the size that the compiler states; for a sum
        over n slices 2 (n - 1) / n times that size."""
        total = 0.0
        for line, times, _ in self._walk(self._entry, 1):
            if " recv(" in line and MEGASCALE in line:
                _, _, right = line.partition(" = ")
                size = max((_size(*shape) for shape in _SHAPE.findall(right[: right.index(" recv(")])), default=0)
                slices = _slices(line)
                total += times * size * (2 * (slices - 1) / slices if "_xla_megascale_reduce_operation" in line else 1)
        return round(total)

    def _walk(self, name: str, times: int, fusion: str = "") -> Iterator[tuple[str, int, str]]:
        """(instruction, how often it runs, name of its fusion) of a computation and of those that it calls."""
        for line in self._bodies.get(name, ()):
            yield line, times, fusion
            rounds = self._rounds(line) if " while(" in line else 1
            for called in _CALL.findall(line):
                for other in map(str.strip, called.replace("%", "").split(",")):
                    yield from self._walk(other, times * rounds, fusion or (other if " fusion(" in line else ""))

    def _rounds(self, line: str) -> int:
        """Number of rounds of a `while`: what XLA notes, else the bound of its counter, else 1."""
        noted, condition = _TRIPS.search(line), _CONDITION.search(line)
        if noted or not condition:
            return int(noted[1]) if noted else 1
        lines = self._bodies.get(condition[1], ())
        constants = {match[1]: int(match[2]) for match in map(_CONSTANT.search, lines) if match}
        bound = next((match[1] for match in map(_LESS.search, lines) if match), None)
        return constants.get(bound or "", 1)


def _received(kind: str, right: str, all_chips: int) -> int:
    """Bytes that a chip receives in a collective that runs around a ring of the chips of a group."""
    result = right[: right.index(kind)]
    sizes = [_size(*shape) for shape in _SHAPE.findall(result)]
    # a -start returns its operand together with its result
    size = max(sizes, default=0) if f"{kind}-start(" in right else sum(sizes)
    chips = _group(right) or all_chips
    share = {
        "all-gather": (chips - 1) / chips,
        "all-reduce": 2 * (chips - 1) / chips,
        "reduce-scatter": chips - 1,
        "all-to-all": (chips - 1) / chips,
        "collective-permute": 1,
    }
    return round(size * share[kind])


def _group(right: str) -> int:
    """Number of chips in one group of a collective; 0 where it names none, which means all chips."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", right)
    if listed:
        return listed[1].count(",") + 1
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]<=", right)
    if iota:
        return int(iota[1])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", right)
    if mesh:
        sizes = dict(re.findall(r"'([\w.]+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([\w.]+)'", mesh[2]))
    return 0


def _slices(line: str) -> int:
    """Number of slices that a transfer joins, written {1,2} or {1:4}; 2 where it is not written."""
    match = _TARGETS.search(line)
    spans = [list(map(int, span.split(":"))) for span in match[1].split(",")] if match else []
    return sum(span[-1] - span[0] + 1 for span in spans) or 2


def _place(name: str) -> str:
    """The place of an operation, from the name that JAX gives it: modules, primitive, and whether it is in the backward
    pass."""
    parts = []
    for part in name.split("/"):
        while inside := _TRANSFORMED.match(part):
            part = inside[1]
        parts.append(re.sub(r"\.\d+$", "", part))
    modules = "/".join(part for part in parts[:-1] if not _WRAPPER.fullmatch(part))
    return " ".join(filter(None, (modules, parts[-1], "backwards" * ("transpose(jvp" in name))))


def _passed(line: str) -> str:
    """Shapes of the results and the operands of a kernel's call."""
    results, _, call = line.partition(" = ")[2].partition(" custom-call(")
    return results + call.partition("operand_layout_constraints=")[2].partition("frontend_attributes")[0]


def _size(dtype: str, dimensions: str) -> int:
    return _BYTES[dtype] * math.prod(int(size) for size in dimensions.split(",") if size)
