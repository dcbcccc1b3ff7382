"""`melody config STAGE --size SIZE`: the composed configuration, as the run's config.gin will hold it."""

import argparse

from melody_jax import graph
from melody_jax.cli import train
from melody_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train.add_composition(parser, ", ".join(graph.ORDER))
    parser.add_argument("--total_steps", type=int, help="instead of the configuration's")
    parser.add_argument(
        "--data", default="", metavar="NAME", help="a data set whose own file of configs/data is read too"
    )


def run(args: argparse.Namespace) -> None:
    """Prints every parameter of the stage and of its training, with the values that they would have."""
    if args.stage not in graph.ORDER:
        raise UserError(f"unknown stage {args.stage!r}; choose one of {', '.join(graph.ORDER)}")
    print(train.request_of(args).compose()[args.stage].text, end="")
