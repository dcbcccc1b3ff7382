"""`melody precompile`: a training step, or a program of sampling, compiled for a TPU slice that is not here."""

import argparse
import json
import sys

import jax

from melody_jax.cli import arguments
from melody_jax.operations.ahead import compile as ahead
from melody_jax.operations.configuration import binding_of

DOES_NOT_FIT = 3
EPILOG = "Prints what the compiler says. Exit code 3: it does not fit into memory."
OPTIONS = ("slices", "mesh", "batch_size", "at_step", "steps", "guidance", "operations", "save")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", metavar="PROGRAM", help=f"one of {', '.join(ahead.PROGRAMS)}")
    parser.add_argument("--size", default="paper", help="of configs/sizes (default paper)")
    parser.add_argument("--topology", required=True, help="v4, v5e, v5p, v6e or tpu7x and the chips, as v5e:16x16")
    arguments.add_fields(parser, ahead.Request, OPTIONS)
    arguments.add(parser, "set", "json")


def run(args: argparse.Namespace) -> int:
    jax.config.update("jax_platforms", "cpu")
    bindings = [binding_of(item) for item in args.set]
    report = ahead.report(ahead.Request(**arguments.fields_of(args, ahead.Request), bindings=bindings))
    print(json.dumps(report, indent=2) if args.json else ahead.table(report))
    if not report["fits"]:
        print(f"error: {report['hint']}", file=sys.stderr)
        return DOES_NOT_FIT
    return 0
