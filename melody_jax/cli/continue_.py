"""`melody continue`: goes on with music."""

import argparse

from melody_jax.cli import edit

EPILOG = "--seconds is how much is added; what was there stays as it was."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    edit.add_music(parser, ("loudness",))


def run(args: argparse.Namespace) -> None:
    """Writes the given music and what follows it."""
    edit.edit(args, "continue_")
