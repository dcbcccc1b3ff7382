"""`melody serve`: a bundle as a service, with a web page."""

import argparse

from melody_jax.cli.arguments import bundle_of, command, fields, fields_of, group, option, shared
from melody_jax.errors import of_extra
from melody_jax.operations.quiet import plain_warnings
from melody_jax.serve import memory
from melody_jax.serve.limits import Limits
from melody_jax.serve.token import VARIABLE, read_token


@command(
    shared("bundle"),
    option("--host", "address to listen on (127.0.0.1: this machine alone)", default="127.0.0.1"),
    option("--port", "0 for any that is free (8000)", type=int, default=8000),
    option("--token_file", f"holds the token that requests must carry (or the variable {VARIABLE})", metavar="FILE"),
    option("--cors", "sites whose pages may call this one", nargs="+", default=[], metavar="ORIGIN"),
    option("--grace", "for running work at the end (30)", type=float, default=30.0, metavar="S"),
    option("--warm", "compile for pieces of that length before listening", type=float, metavar="S"),
    group("limits", fields(Limits, prefix="most_")),
    epilog="Ctrl-C finishes what runs; a second one ends at once.",
)
def serve(args: argparse.Namespace) -> None:
    limits = Limits(**fields_of(args, Limits, prefix="most_"))
    token, bundle = read_token(args.token_file, args.host), bundle_of(args.bundle)
    memory.keep_together()  # before there are threads
    with of_extra("serve", "melody serve"):
        from melody_jax.generate import Melody
        from melody_jax.operations import cache
        from melody_jax.serve import run as running

    with plain_warnings(), running.listening(args.host, args.port) as place:
        cache.keep_programs()
        melody = Melody.load(bundle)  # without arrows of its own on disk: a server drops programs when they are many
        if args.warm is not None:
            running.warm(melody, limits, args.warm)
        running.serve(melody, place, limits, token, args.cors, args.grace)
