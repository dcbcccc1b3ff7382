"""`melody continue`: goes on with music."""

import argparse

from melody_jax.cli import edit


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "continue",
        epilog="--seconds is how much is added; what was there stays as it was.",
    )
    parser.set_defaults(run=run)
    edit.add_arguments(parser, ("loudness",))


def run(args: argparse.Namespace) -> None:
    """Writes the given music and what follows it.

    Raises:
      UserError: a bad argument.
    """
    edit.edit(args, "continue_")
