"""`melody precompile`: a training step, or a program of sampling, compiled for a TPU slice that is not here."""

import argparse
import dataclasses
import json
import os
import sys

from melody_jax import graph
from melody_jax.cli.arguments import check_positive
from melody_jax.errors import UserError

DOES_NOT_FIT = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    choices = f"a stage, or a program of sampling: {', '.join(graph.PROGRAMS)}"
    parser.add_argument("program", metavar="PROGRAM", help=choices)
    parser.add_argument("--size", default="paper", help="of configs/sizes (default paper)")
    parser.add_argument("--topology", required=True, help="v4, v5e, v5p, v6e or tpu7x and the chips, as v5e:16x16")
    parser.add_argument(
        "--slices", type=int, default=1, help="number of slices, joined by the data centre network (default 1)"
    )
    parser.add_argument("--mesh", default="data=-1", help="device mesh, as data=-1,fsdp=16 (default data=-1)")
    batch = "global batch (default: the configuration's; sampling: one clip per chip)"
    parser.add_argument("--batch_size", type=int, help=batch)
    parser.add_argument("--set", action="append", default=[], metavar="BINDING=VALUE", help="a gin binding")
    phase = "the program that runs after this step (the autoencoder has another one before adversarial_start)"
    parser.add_argument("--at_step", type=int, help=phase)
    parser.add_argument("--steps", type=int, default=20, help="of the diffusion, in sampling (default 20)")
    parser.add_argument("--guidance", type=float, default=2.5, help="in sampling, 1 for none (default 2.5)")
    parser.add_argument("--operations", type=int, default=0, metavar="N", help="list the N that take most of the time")
    parser.add_argument("--save", metavar="DIR", help="write the executable there, where melody train finds it")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Compiles, and prints what the compiler says. Exit code 3: it does not fit into memory."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from melody_jax.operations.ahead import compile as ahead
    from melody_jax.operations.configuration import binding_of

    if args.program not in ahead.PROGRAMS:
        raise UserError(f"unknown program {args.program!r}; choose one of {', '.join(ahead.PROGRAMS)}")
    check_positive(args, "slices", "batch_size", "steps")
    if args.operations < 0:
        raise UserError(f"--operations must be at least 0, got {args.operations}")
    names = {field.name for field in dataclasses.fields(ahead.Request)} - {"bindings"}
    bindings = [binding_of(item) for item in args.set]
    report = ahead.report(ahead.Request(bindings=bindings, **{name: getattr(args, name) for name in names}))
    print(json.dumps(report, indent=2) if args.json else ahead.table(report))
    if not report["fits"]:
        print(f"error: {report['hint']}", file=sys.stderr)
        return DOES_NOT_FIT
    return 0
