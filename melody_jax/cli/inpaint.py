"""`melody inpaint`: makes spans of music anew."""

import argparse

from melody_jax.cli import pieces
from melody_jax.errors import UserError

EPILOG = "What lies outside the spans stays as it was."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pieces.add_music(parser, ("seconds", "loudness"))
    parser.add_argument(
        "--span", action="append", default=[], metavar="A:B", help="seconds, as in 2.5:4; several times"
    )


def run(args: argparse.Namespace) -> None:
    if not args.span:
        raise UserError("there is no span; try --span 2.5:4")
    pieces.edit(args, "inpaint", spans=[_span(text) for text in args.span])


def _span(text: str) -> tuple[float, float]:
    begin, _, end = text.partition(":")
    try:
        return float(begin), float(end)
    except ValueError:
        raise UserError(f"--span {text}: write begin and end in seconds, as in 2.5:4") from None
