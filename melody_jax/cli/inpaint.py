"""`melody inpaint`: makes spans of music anew."""

import argparse

from melody_jax.cli import edit
from melody_jax.errors import UserError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("inpaint", epilog="What lies outside the spans stays as it was.")
    parser.set_defaults(run=run)
    edit.add_arguments(parser, ("seconds", "loudness"))
    parser.add_argument(
        "--span", action="append", default=[], metavar="A:B", help="seconds, as in 2.5:4; several times"
    )


def run(args: argparse.Namespace) -> None:
    """Writes the music with other spans.

    Raises:
      UserError: a bad argument.
    """
    if not args.span:
        raise UserError("there is no span; try --span 2.5:4")
    edit.edit(args, "inpaint", spans=[_span(text) for text in args.span])


def _span(text: str) -> tuple[float, float]:
    begin, _, end = text.partition(":")
    try:
        return float(begin), float(end)
    except ValueError:
        raise UserError(f"--span {text}: write begin and end in seconds, as in 2.5:4") from None
