"""`melody vary`: another version of music."""

import argparse

from melody_jax.cli import pieces
from melody_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pieces.add_music(parser, ("seconds",))
    parser.add_argument("--strength", type=float, default=0.5, help="0: as it was, to 1: a new piece (0.5)")


def run(args: argparse.Namespace) -> None:
    if not 0 <= args.strength <= 1:
        raise UserError(f"--strength must be from 0 to 1, got {args.strength:g}")
    pieces.edit(args, "vary", strength=args.strength)
