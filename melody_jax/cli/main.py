"""`melody COMMAND ...`: parses, calls the command's file, and turns UserError into one line and exit code 2."""

import argparse
import importlib
import sys

from melody_jax import __version__
from melody_jax.errors import UserError

# In the order of use. Each module has `add_parser(subparsers)` and `run(args)`; only the chosen one is imported.
COMMANDS = {
    "data": "build a captioned audio data set: the built-in corpus or your own music",
    "train": "train one stage, or all of them in order",
    "tokenize": "turn a data set into tokens and latents with the trained representation models",
    "export": "collect trained parts into a bundle for sampling",
    "generate": "make music from sentences with a bundle",
    "evaluate": "measure trained stages or a bundle on held-out music",
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line (exit code 2) instead of printing the whole usage."""

    def error(self, message):
        raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(argv)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _dispatch(argv: list[str]) -> int:
    parser = Parser(prog="melody", description="Train and sample MeLoDy, text-to-music in JAX.")
    parser.add_argument("--version", action="version", version=f"melody_jax {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for name, text in COMMANDS.items():
        if name == chosen:
            importlib.import_module(f"melody_jax.cli.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=text, add_help=False)
    args, unknown = parser.parse_known_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    if unknown and args.command != "train":
        raise UserError(f"unknown arguments: {' '.join(unknown)} (see melody {args.command} --help)")
    args.unknown = unknown
    return args.run(args) or 0


if __name__ == "__main__":
    sys.exit(main())
