"""`melody config STAGE --size SIZE`: the composed configuration, as the run's config.gin will hold it."""

import argparse

from melody_jax import graph
from melody_jax.cli import arguments, train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train.add_composition(parser, ", ".join(graph.ORDER))
    arguments.add(parser, "total_steps")
    text = "a data set whose own file of configs/data is read too"
    parser.add_argument("--data", default="", metavar="NAME", help=text)


def run(args: argparse.Namespace) -> None:
    print(train.request_of(args).compose_one().text, end="")
