"""`melody describe`, `melody precompile`: what a size takes, without a weight or a chip."""

import argparse
import json
import sys

import jax

from melody_jax.cli.arguments import command, fields, fields_of, option, shared
from melody_jax.graph import NETWORKS
from melody_jax.operations import describe as models
from melody_jax.operations.ahead import compile as ahead
from melody_jax.operations.configuration import binding_of

DOES_NOT_FIT = 3
OPTIONS = ("slices", "mesh", "batch_size", "at_step", "steps", "guidance", "operations", "save")


@command(option("--size", "of configs/sizes (default tiny)", default="tiny"), shared("json"))
def describe(args: argparse.Namespace) -> None:
    found = {name: models.describe(name, args.size) for name in NETWORKS}
    report = {"size": args.size, "models": found}
    print(json.dumps(report, indent=2) if args.json else models.table(args.size, found))


@command(
    option("program", f"one of {', '.join(ahead.PROGRAMS)}", metavar="PROGRAM"),
    option("--size", "of configs/sizes (default paper)", default="paper"),
    option("--topology", "v4, v5e, v5p, v6e or tpu7x and the chips, as v5e:16x16", required=True),
    fields(ahead.Request, OPTIONS),
    shared("set", "gin_file", "json"),
    epilog="Prints what the compiler says. Exit code 3: it does not fit into memory.",
)
def precompile(args: argparse.Namespace) -> int:
    jax.config.update("jax_platforms", "cpu")
    own = {"gin_files": args.gin_file, "bindings": [binding_of(item) for item in args.set]}
    report = ahead.report(ahead.Request(**fields_of(args, ahead.Request), **own))
    print(json.dumps(report, indent=2) if args.json else ahead.table(report))
    if not report["fits"]:
        print(f"error: {report['hint']}", file=sys.stderr)
        return DOES_NOT_FIT
    return 0
