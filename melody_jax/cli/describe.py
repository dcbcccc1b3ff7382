"""`melody describe`: parameters and FLOPs of every model of a size, without a single weight."""

import argparse
import json

from melody_jax.cli import arguments
from melody_jax.graph import NETWORKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", default="tiny", help="of configs/sizes (default tiny)")
    arguments.add(parser, "json")


def run(args: argparse.Namespace) -> None:
    from melody_jax.operations import describe

    models = {name: describe.describe(name, args.size) for name in NETWORKS}
    report = {"size": args.size, "models": models}
    print(json.dumps(report, indent=2) if args.json else describe.table(args.size, models))
