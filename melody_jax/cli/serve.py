"""`melody serve`: a bundle as a service, with a web page."""

import argparse

from melody_jax.cli import arguments, pieces
from melody_jax.operations.quiet import plain_warnings
from melody_jax.serve.limits import Limits
from melody_jax.serve.token import VARIABLE, read_token

EPILOG = "Ctrl-C finishes what runs; a second one ends at once."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add(parser, "bundle")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free (8000)")
    text = f"holds the token that requests must carry (or the variable {VARIABLE})"
    parser.add_argument("--token_file", metavar="FILE", help=text)
    parser.add_argument("--cors", nargs="+", default=[], metavar="ORIGIN", help="sites whose pages may call this one")
    parser.add_argument("--grace", type=float, default=30.0, metavar="S", help="for running work at the end (30)")
    parser.add_argument("--warm", type=float, metavar="S", help="compile for pieces of that length before listening")
    group = parser.add_argument_group("limits")
    arguments.add_fields(group, Limits, prefix="most_")


def run(args: argparse.Namespace) -> None:
    limits = Limits(**arguments.fields_of(args, Limits, prefix="most_"))
    token, bundle = read_token(args.token_file, args.host), arguments.bundle_of(args.bundle)
    with arguments.installed("melody serve", "pip install 'melody_jax[serve]'"):
        from melody_jax.generate import Melody
        from melody_jax.serve import run as running

    with plain_warnings(), running.listening(args.host, args.port) as place:
        pieces.keep_programs()
        melody = Melody.load(bundle)  # without arrows of its own on disk: a server drops programs when they are many
        if args.warm is not None:
            running.warm(melody, limits, args.warm)
        running.serve(melody, place, limits, token, args.cors, args.grace)
