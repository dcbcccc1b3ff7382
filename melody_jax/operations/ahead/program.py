"""What a compiled program costs: memory, communication, and time as far as the compiler tells it.

The TPU compiler writes its own estimate, in cycles, beside every fusion, and none beside a collective. Their sum, loop
bodies as often as they run, is the compute time here. (`cost_analysis()["optimal_seconds"]` counts the body of a loop once,
and an operation that it does not know, such as a collective that runs beside others, as minus one second.)
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
_UNKNOWN = 1 << 62  # the compiler's largest number, of an operation that it cannot estimate
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
      collectives: kind -> (how often, bytes that a chip receives).
      blocking: the same of those that nothing runs beside.
      network_bytes: that a chip receives from other slices, over the data centre's network.
      cycles: the compiler's estimate of all that is no communication; 0 where it makes none (CPUs).
      unknown: operations that it has no estimate of, which count nothing.
      operations: (where in the model, how often, cycles of all), those that take most first.
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
      bytes_per_cycle: that a chip reads or writes; a kernel takes at least the time of what goes in and out.
      operations: how many are told one by one.
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
    """Of abstract arrays with shardings, on the chip that holds most."""
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
        """(the compiler's estimates, summed over all that runs; how many operations have none, and count nothing)."""
        estimates = [(times, cycles) for _, times, cycles in self._estimates(kernels, bytes_per_cycle)]
        known = sum(times * cycles for times, cycles in estimates if cycles is not None)
        return known, sum(cycles is None for _, cycles in estimates)

    def costliest(
        self, count: int, kernels: Mapping[str, int] = MappingProxyType({}), bytes_per_cycle: float = math.inf
    ) -> tuple[tuple[str, int, int], ...]:
        """(where, how often, cycles of all) of the `count` places in the model that take most of `cycles`."""
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
        """Kind -> (how often, bytes received by a chip), of rings; of all, or only of those that nothing runs beside.

        Others run beside what stands with them in an asynchronous fusion, or between their start and their end. The
        compiler may cut one collective, a channel, into steps within fusions that run beside it: it counts once,
        as often as the least frequent of them. A reduce-scatter it writes as the fusion of an all-reduce and a slice.
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
        """Bytes that a chip receives from other slices: what comes through its host, as the compiler has it, of a sum over
        n slices 2 (n - 1) / n times."""
        total = 0.0
        for line, times, _ in self._walk(self._entry, 1):
            if " recv(" in line and MEGASCALE in line:
                _, _, right = line.partition(" = ")
                size = max((_size(*shape) for shape in _SHAPE.findall(right[: right.index(" recv(")])), default=0)
                slices = _slices(line)
                total += times * size * (2 * (slices - 1) / slices if "_xla_megascale_reduce_operation" in line else 1)
        return round(total)

    def _walk(self, name: str, times: int, fusion: str = "") -> Iterator[tuple[str, int, str]]:
        """(instruction, how often it runs, name of the fusion that it is part of) of a computation and those it calls."""
        for line in self._bodies.get(name, ()):
            yield line, times, fusion
            rounds = self._rounds(line) if " while(" in line else 1
            for called in _CALL.findall(line):
                for other in map(str.strip, called.replace("%", "").split(",")):
                    yield from self._walk(other, times * rounds, fusion or (other if " fusion(" in line else ""))

    def _rounds(self, line: str) -> int:
        """Of a `while`: as XLA notes it, or the bound of a counter; 1 where neither tells."""
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
    # a -start gives its operand beside its result
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
    """Chips of one group of a collective; 0 where none are named, which means all."""
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
    """That a transfer between slices joins, as {1,2} or {1:4}; two where it does not say."""
    match = _TARGETS.search(line)
    spans = [list(map(int, span.split(":"))) for span in match[1].split(",")] if match else []
    return sum(span[-1] - span[0] + 1 for span in spans) or 2


def _place(name: str) -> str:
    """Of an operation's name as JAX gives it: modules and primitive, and whether the backward pass runs it."""
    parts = []
    for part in name.split("/"):
        while inside := _TRANSFORMED.match(part):
            part = inside[1]
        parts.append(re.sub(r"\.\d+$", "", part))
    modules = "/".join(part for part in parts[:-1] if not _WRAPPER.fullmatch(part))
    return " ".join(filter(None, (modules, parts[-1], "backwards" * ("transpose(jvp" in name))))


def _passed(line: str) -> str:
    """Of a kernel's call, the shapes of its results and of its operands."""
    results, _, call = line.partition(" = ")[2].partition(" custom-call(")
    return results + call.partition("operand_layout_constraints=")[2].partition("frontend_attributes")[0]


def _size(dtype: str, dimensions: str) -> int:
    return _BYTES[dtype] * math.prod(int(size) for size in dimensions.split(",") if size)
