"""`melody precompile`: a training step, or a program of sampling, compiled for a TPU slice that is not here."""

import argparse
import dataclasses
import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

HINT = "try another remat policy (--set lm.LMConfig.remat=full), more fsdp in --mesh, or a smaller --batch"
STAGES = ("mulan", "semantic", "lm", "dpd", "autoencoder")
DOES_NOT_FIT = 3
KERNEL_FREE = ("autoencoder", "decoder")
"""Programs without Pallas kernels, the longest to compile: writing schedules would take a quarter of the time more."""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("precompile", help="compile for a TPU slice without one: memory, time, MFU")
    parser.set_defaults(run=run)
    choices = "a stage, or a program of sampling: lm-decode, dpd-sampler, decoder"
    parser.add_argument("program", metavar="PROGRAM", help=choices)
    parser.add_argument("--size", default="paper", help="of configs/sizes (default paper)")
    parser.add_argument("--topology", required=True, help="v4, v5e, v5p, v6e or tpu7x and the chips, as v5e:16x16")
    parser.add_argument("--slices", type=int, default=1, help="so many slices, joined by the data centre network")
    parser.add_argument("--mesh", default="data=-1", help="device mesh, as data=-1,fsdp=16 (default data=-1)")
    parser.add_argument("--batch", type=int, help="global batch (default: the configuration's; sampling: one per chip)")
    parser.add_argument("--set", action="append", default=[], metavar="BINDING=VALUE", help="a gin binding")
    phase = "the program that runs after so many steps (autoencoder: another one before adversarial_start)"
    parser.add_argument("--at_step", type=int, help=phase)
    parser.add_argument("--steps", type=int, default=20, help="of the diffusion, in sampling (default 20)")
    parser.add_argument("--guidance", type=float, default=2.5, help="in sampling, 1 for none (default 2.5)")
    parser.add_argument("--operations", type=int, default=0, metavar="N", help="list the N that take most of the time")
    parser.add_argument("--save", metavar="DIR", help="write the executable there, where melody train finds it")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Compiles, and prints what the compiler says. Exit code 3: it does not fit into memory.

    Raises:
      UserError: unknown names, a mesh or batch that does not divide, or no compiler.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    from melody_jax.ahead import kernels, plan
    from melody_jax.errors import UserError

    if args.program not in (*STAGES, *plan.SAMPLING):
        raise UserError(f"unknown program {args.program!r}; choose one of {', '.join((*STAGES, *plan.SAMPLING))}")
    if args.slices < 1 or (args.batch is not None and args.batch < 1) or args.steps < 1 or args.operations < 0:
        raise UserError("--slices, --batch and --steps must be at least 1, --operations not negative")
    with nullcontext() if args.program in KERNEL_FREE else kernels.schedules() as schedules:
        report = _report(args, schedules)
    print(json.dumps(report, indent=2) if args.json else _table(report))
    if not report["fits"]:
        print(f"error: {report['hint']}", file=sys.stderr)
        return DOES_NOT_FIT
    return 0


def _report(args: argparse.Namespace, schedules: Path | None) -> dict[str, Any]:
    """What is asked for, and what the compiler says of it."""
    from melody_jax.ahead import plan, topology
    from melody_jax.parallel.mesh import make_mesh

    chip = topology.chip_of(args.topology)
    devices = topology.devices_of(args.topology, args.slices)
    mesh = make_mesh(args.mesh, devices)
    started = time.monotonic()
    if args.program in plan.SAMPLING:
        stages, batch = {name: _stage(args, name) for name in STAGES}, args.batch or len(devices)
        planned = plan.sampling(args.program, stages, mesh, batch, args.steps, args.guidance)
    else:
        stage = _stage(args, args.program)
        batch, planned = stage.batch_size, plan.training(stage, mesh, args.at_step)
    asked = {
        "program": args.program,
        "size": args.size,
        "topology": args.topology,
        "slices": args.slices,
        "chips": len(devices),
        "mesh": args.mesh,
        "batch": batch,
    }
    return asked | _compiled(args, planned, chip, mesh.devices.ravel().tolist(), started, schedules)


def _stage(args: argparse.Namespace, name: str) -> Any:
    from melody_jax.cli import configuration

    bindings = [configuration.binding_of(item) for item in args.set]
    if args.batch is not None and name == args.program:
        bindings.append(f"BATCH_SIZE = {args.batch}")
    files = configuration.gin_files(name, args.size, "tpu")
    return configuration.compose(files, bindings=bindings, partial=name != args.program).stage


def _compiled(
    args: argparse.Namespace, planned: Any, chip: Any, devices: list[Any], started: float, schedules: Path | None
) -> dict[str, Any]:
    """What the compiler says of the plan, and whether it fits."""
    import jax

    from melody_jax.ahead import kernels, program
    from melody_jax.train import precompiled

    jax.config.update("jax_enable_compilation_cache", False)  # see precompiled.save; and its time is of interest
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
    cost = program.cost_of(compiled, cycles, chip.bandwidth / chip.clock, args.operations)
    if args.save:
        precompiled.save(args.save, precompiled.key_of(lowered, devices), compiled)
    fits = cost.peak_bytes <= chip.hbm_bytes
    wanted = f"does not fit: {cost.peak_bytes / 1e9:.1f} GB of {chip.hbm_bytes / 1e9:g} GB; {HINT}"
    return known | {
        "fits": fits,
        **({} if fits else {"hint": wanted}),
        **dataclasses.asdict(cost),
        **_times(planned.model_flops / len(devices) / chip.flops, cost, chip),
        "trace_seconds": round(traced - started, 1),
        "compile_seconds": round(finished - traced, 1),
    }


def _times(ideal: float, cost: Any, chip: Any) -> dict[str, float | None]:
    """Estimated seconds and MFU, `ideal` being the seconds of the model FLOPs at the chip's peak.

    Computation takes the compiler's cycles at the chip's clock; communication the bytes that a chip receives over two of
    its links, a ring along one axis of the torus. The step takes the longer one where they overlap, both where nothing does.
    """
    computation = cost.cycles / chip.clock
    communication = sum(size for _, size in cost.collectives.values()) / (2 * chip.link)
    overlapped, serial = max(computation, communication), computation + communication
    return {
        "computation_seconds": computation,
        "communication_seconds": communication,
        "seconds": overlapped,
        "mfu": ideal / overlapped if cost.cycles else None,
        "mfu_without_overlap": ideal / serial if cost.cycles else None,
    }


def _table(report: dict[str, Any]) -> str:
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
        rows += [(name, f"{report[f'{name}_seconds'] * 1e3:.2f} ms") for name in ("computation", "communication")]
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
