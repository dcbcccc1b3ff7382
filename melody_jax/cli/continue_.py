"""`melody continue`: goes on with music."""

import argparse

from melody_jax.cli import pieces

EPILOG = "--seconds is how much is added; what was there stays as it was."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pieces.add_music(parser, ("loudness",))


def run(args: argparse.Namespace) -> None:
    pieces.edit(args, "continue_")
