"""A program compiled for a slice that is not here: what is asked for, what the compiler says, and the time that follows."""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax

from melody_jax import graph, libtpu, precompiled
from melody_jax.errors import UserError
from melody_jax.operations import configuration
from melody_jax.operations.ahead import kernels, plan, program, topology
from melody_jax.parallel.mesh import DEFAULT, make_mesh
from melody_jax.watch.chips import Chip

HINT = "try another remat policy (--set lm.LMConfig.remat=full), more fsdp in --mesh, or a smaller --batch_size"
KERNEL_FREE = ("autoencoder", "decoder")
"""Programs without Pallas kernels, the longest to compile: writing schedules would take a quarter of the time more."""
PROGRAMS = (*graph.NETWORKS, *graph.PROGRAMS)


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be compiled, and for what.

    Attributes:
      program: a stage with a network, or a program of sampling.
      size: of configs/sizes.
      topology: chips and their number, as v5e:16x16.
      slices: number of slices, joined by the data centre network.
      mesh: sizes of the mesh axes, as data=-1,fsdp=16; if not given the configuration's, in sampling data=-1.
      batch_size: global batch; if not given the configuration's, in sampling one clip per chip.
      gin_files, bindings: the user's own; bindings as gin reads them, "name = value".
      at_step: the program that runs after this step, for a stage whose program changes during training (the
        autoencoder's does at adversarial_start); if not given the last one.
      steps: of the diffusion, in sampling.
      guidance: of the diffusion, in sampling; 1 for none.
      operations: how many of the slowest operations are listed.
      save: folder that the executable is written to, where melody train --precompiled finds it.
    """

    program: str
    size: str
    topology: str
    slices: int = 1
    mesh: str | None = None
    batch_size: int | None = None
    gin_files: Sequence[str] = ()
    bindings: Sequence[str] = ()
    at_step: int | None = None
    steps: int = 20
    guidance: float = 2.5
    operations: int = 0
    save: str | None = None

    def __post_init__(self):
        if self.program not in PROGRAMS:
            raise UserError(f"unknown program {self.program!r}; choose one of {', '.join(PROGRAMS)}")
        for name, least in {"slices": 1, "batch_size": 1, "steps": 1, "operations": 0}.items():
            number = getattr(self, name)
            if number is not None and number < least:
                raise UserError(f"--{name} must be at least {least}, got {number}")

    def config(self, name: str) -> configuration.RunConfig:
        """The composed configuration of a stage."""
        bindings = list(self.bindings)
        if self.batch_size is not None and name == self.program:
            bindings.append(f"BATCH_SIZE = {self.batch_size}")
        files = configuration.gin_files(name, self.size, "tpu")
        return configuration.compose(files, self.gin_files, bindings, partial=name != self.program)


def report(request: Request) -> dict[str, Any]:
    """What is asked for, and what the compiler says of it.

    Raises:
      UserError: unknown names, a mesh or batch that does not divide, or no compiler.
    """
    watched = nullcontext() if request.program in KERNEL_FREE else kernels.schedules()
    with libtpu.flags_set(request.topology.partition(":")[0]), watched as schedules:
        return _report(request, schedules)


def _report(request: Request, schedules: Path | None) -> dict[str, Any]:
    chip = topology.chip_of(request.topology)
    devices = topology.devices_of(request.topology, request.slices)
    started = time.monotonic()
    if request.program in graph.PROGRAMS:
        stages = {name: request.config(name).stage for name in graph.NETWORKS}
        split, batch = request.mesh or DEFAULT, request.batch_size or len(devices)
        mesh = make_mesh(split, devices)
        planned = plan.sampling(request.program, stages, mesh, batch, request.steps, request.guidance)
    else:
        config = request.config(request.program)
        split, batch = request.mesh or config.run.mesh, config.stage.batch_size
        mesh = make_mesh(split, devices)
        planned = plan.training(config.stage, mesh, request.at_step)
    asked = {
        "program": request.program,
        "size": request.size,
        "topology": request.topology,
        "slices": request.slices,
        "chips": len(devices),
        "mesh": split,
        "batch": batch,
    }
    return asked | _compiled(request, planned, chip, mesh.devices.ravel().tolist(), started, schedules)


def _compiled(
    request: Request, planned: Any, chip: Chip, devices: list[Any], started: float, schedules: Path | None
) -> dict[str, Any]:
    """What the compiler says of the plan, and whether it fits."""
    # see precompiled.save; and the time of compiling is measured
    jax.config.update("jax_enable_compilation_cache", False)
    lowered = precompiled.lower(planned.program, *planned.arguments)
    traced = time.monotonic()
    known = {
        "hbm_bytes": int(chip.hbm_bytes),
        "held_bytes": planned.held,
        "model_flops": planned.model_flops,
        "hardware_flops": planned.hardware_flops,
    }
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = next(
            (line for line in str(error).splitlines() if "Used" in line or "exceed" in line.lower()), str(error)
        )
        return known | {"fits": False, "hint": f"does not fit: {' '.join(said.split())[:300]}; {HINT}"}
    finished = time.monotonic()
    cycles = kernels.cycles(schedules) if schedules else {}
    cost = program.cost_of(compiled, cycles, chip.bandwidth / chip.clock, request.operations)
    if request.save:
        precompiled.save(request.save, precompiled.key_of(lowered.as_text(), devices), compiled)
    fits = cost.peak_bytes <= chip.hbm_bytes
    wanted = f"does not fit: {cost.peak_bytes / 1e9:.1f} GB of {chip.hbm_bytes / 1e9:g} GB; {HINT}"
    return known | {
        "fits": fits,
        **({} if fits else {"hint": wanted}),
        **dataclasses.asdict(cost),
        **times(planned.model_flops / len(devices) / chip.flops, cost, chip),
        "trace_seconds": round(traced - started, 1),
        "compile_seconds": round(finished - traced, 1),
    }


def times(ideal: float, cost: program.Cost, chip: Chip) -> dict[str, float | None]:
    """Estimated seconds and MFU of a step; `ideal` is the seconds that the model FLOPs take at the chip's peak.

    Computation: the compiler's cycles at the chip's clock. Communication: the bytes that a chip receives, over two of
    its links (a ring along one axis of the torus) or, from other slices, over its host's network. Blocking
    communication runs alone. Everything else overlaps, so that the longest of it counts.
    """
    computation = cost.cycles / chip.clock
    links, blocked = (
        sum(size for _, size in of.values()) / (2 * chip.link) for of in (cost.collectives, cost.blocking)
    )
    network = cost.network_bytes / chip.network
    overlapped = blocked + max(computation, links - blocked, network)
    serial = computation + links + network
    return {
        "computation_seconds": computation,
        "communication_seconds": links,
        "blocking_seconds": blocked,
        "network_seconds": network,
        "seconds": overlapped,
        "mfu": ideal / overlapped if cost.cycles else None,
        "mfu_without_overlap": ideal / serial if cost.cycles else None,
    }


def table(report: dict[str, Any]) -> str:
    """The report as lines of a table; MFU = model FLOPs / (chips x peak FLOP/s x seconds)."""
    gigabytes = {f"{name}, per chip": size for name, size in report["held_bytes"].items()}
    rows = [
        ("program", f"{report['program']}, {report['size']}, global batch {report['batch']}"),
        ("for", f"{report['slices']} x {report['topology']}: {report['chips']} chips, mesh {report['mesh']}"),
    ]
    if "peak_bytes" in report:
        gigabytes |= {"temporary (activations)": report["temporary_bytes"], "peak": report["peak_bytes"]}
    rows += [(name, f"{size / 1e9:.3f} GB") for name, size in (gigabytes | {"HBM": report["hbm_bytes"]}).items()]
    rows.append(("model FLOPs, all chips", f"{report['model_flops'] / 1e12:.2f} T"))
    rows.append(("with recomputation", f"{report['hardware_flops'] / 1e12:.2f} T"))
    if "peak_bytes" in report:
        collectives = report["collectives"].items()
        rows += [(kind, f"{count} x, {size / 1e6:,.1f} MB per chip") for kind, (count, size) in collectives]
        kinds = ["computation", "communication", "blocking", *(["network"] if report["network_seconds"] else [])]
        said = {"blocking": "of it with nothing beside it", "network": "between slices"}
        rows += [(said.get(name, name), f"{report[f'{name}_seconds'] * 1e3:.2f} ms") for name in kinds]
        rows.append(("estimated step", f"{report['seconds'] * 1e3:.2f} ms"))
        without = f", {report['mfu_without_overlap']:.1%} if no communication overlaps" if report["mfu"] else ""
        rows.append(("estimated MFU", f"{report['mfu']:.1%}{without}" if report["mfu"] else "unknown"))
        if report["unknown"]:
            rows.append(("operations without an estimate", f"{report['unknown']}, which count nothing"))
        for where, times, cycles in report["operations"]:
            share = cycles / max(report["cycles"], 1)
            rows.append((where, f"{share:.1%}, {share * report['computation_seconds'] * 1e3:.2f} ms, {times} x"))
        rows.append(("trace, compile", f"{report['trace_seconds']:g} s, {report['compile_seconds']:g} s"))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
