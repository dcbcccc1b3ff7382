"""`melody inpaint`: makes spans of music anew."""

import argparse

from melody_jax.cli import edit
from melody_jax.errors import UserError

EPILOG = "What lies outside the spans stays as it was."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    edit.add_music(parser, ("seconds", "loudness"))
    parser.add_argument(
        "--span", action="append", default=[], metavar="A:B", help="seconds, as in 2.5:4; several times"
    )


def run(args: argparse.Namespace) -> None:
    """Writes the music with other spans."""
    if not args.span:
        raise UserError("there is no span; try --span 2.5:4")
    edit.edit(args, "inpaint", spans=[_span(text) for text in args.span])


def _span(text: str) -> tuple[float, float]:
    begin, _, end = text.partition(":")
    try:
        return float(begin), float(end)
    except ValueError:
        raise UserError(f"--span {text}: write begin and end in seconds, as in 2.5:4") from None
