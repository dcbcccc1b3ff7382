"""`melody COMMAND ...`: parses, calls the command, and turns UserError into one line and exit code 2."""

import argparse
import importlib
import io
import keyword
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from melody_jax import __version__
from melody_jax.errors import BAD_ARGUMENTS, BROKEN_PIPE, INTERRUPTED, StoppedError, UserError, refuse_addresses
from melody_jax.operations.quiet import explained, quiet_workers, silence_tensorflow

COMMANDS = {
    "data": ("data", "build a captioned audio data set: the built-in corpus or your own music"),
    "config": ("train", "print the composed configuration of a stage"),
    "doctor": ("train", "check data, one step and the disk before a long training"),
    "train": ("train", "train one stage, or all of them in order"),
    "finetune": ("train", "train a bundle's language and diffusion models further on your own music"),
    "sweep": ("sweep", "train with many settings and compare what they reach"),
    "tokenize": ("train", "turn a data set into tokens and latents with the trained representation models"),
    "report": ("report", "how the training of every stage goes: losses, speed, where the time went"),
    "export": ("parts", "collect trained parts into a bundle for sampling"),
    "export hf": ("parts", "write trained parts as Hugging Face folders"),
    "export t5x": ("parts", "write trained parts as T5X checkpoints"),
    "export stablehlo": ("parts", "write a bundle's sampler as programs that run with jax alone"),
    "generate": ("music", "make music from sentences with a bundle"),
    "continue": ("music", "go on with music"),
    "inpaint": ("music", "make spans of music anew"),
    "vary": ("music", "make another version of music"),
    "stream": ("stream", "endless music into a file or a pipe"),
    "play": ("stream", "endless music from the loudspeaker"),
    "serve": ("serve", "a web page and a REST service with a bundle"),
    "evaluate": ("evaluate", "measure trained stages or a bundle on held-out music"),
    "listen": ("listen", "compare two folders of music by ear, without knowing which is which"),
    "import hf": ("parts", "read a Hugging Face folder: a part that training can start from"),
    "import t5x": ("parts", "read a T5X checkpoint: the part of a stage"),
    "rehearse": ("launch", "a launch on a simulated pod of this machine, and what it would take on its slices"),
    "launch": ("launch", "run a command on TPU VMs, GKE or SLURM"),
    "precompile": ("describe", "compile for a TPU slice without one: memory, time, MFU"),
    "describe": ("describe", "parameters and FLOPs of every model of a size"),
}
"""Command -> its file and its one help text, in the order of use. Only the file of the chosen one is imported."""

GIN_ARGUMENTS = ("train", "doctor", "config")
"""Commands that take --gin.NAME=value."""

TEXTS = ("prompts", "prompt", "negative", "title", "trained_on", "licence", "storage", "cors")
"""Arguments in which an address is as good as any word: text for people, URLs of databases and of pages."""

BUCKETS = {
    "data": ("path", "audio", "data_dir"),
    "train": ("model_dir", "data_dir", "init_from", "precompiled"),
    "tokenize": ("model_dir", "data_dir"),
    "report": ("model_dir", "out"),
    "export": ("model_dir", "out"),
    **dict.fromkeys(("export hf", "export t5x"), ("model_dir",)),
    **dict.fromkeys(("generate", "continue", "inpaint", "vary"), ("bundle", "out")),
    **dict.fromkeys(("stream", "play", "serve", "export stablehlo"), ("bundle",)),
    "evaluate": ("bundle", "data_dir", "model_dir"),
}
"""Command -> its arguments that may be paths in buckets, gs://BUCKET/...; in all others an address is refused."""

quiet_workers()


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line (exit code 2) instead of printing the whole usage.

    Options are written out: an abbreviation would mean something else as soon as another option begins like it.
    """

    def __init__(self, *args, allow_abbrev: bool = False, **kwargs):
        super().__init__(*args, allow_abbrev=allow_abbrev, **kwargs)

    def error(self, message):
        raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names and prompts may hold what a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    silence_tensorflow()
    try:
        return _dispatch(argv)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_ARGUMENTS
    except StoppedError as stopped:
        print(f"error: {stopped}", file=sys.stderr, flush=True)
        importlib.import_module("melody_jax.parallel.hosts").leave()
        return stopped.exit_code
    except BrokenPipeError:  # the reader of `melody report | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        if (told := explained(error)) is None:
            raise
        line, code = told
        print(f"error: {line}", file=sys.stderr)
        return code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one, while threads and processes end, says nothing more
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _dispatch(argv: Sequence[str]) -> int:
    args = parse(argv)
    for name, value in vars(args).items():
        given = value if isinstance(value, (list, tuple)) else [value]
        words = [str(word) for word in given if isinstance(word, (str, os.PathLike))]
        if name in BUCKETS.get(args.command, ()):
            from melody_jax import storage  # which takes a tenth of a second, also from --help

            for word in words:
                storage.path(word)
        elif name not in TEXTS:
            refuse_addresses(words)
    return args.run(args) or 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments: `command`, `run`, the command's own, and `unknown`, the words --gin.NAME=value.

    Raises:
      UserError: they are wrong.
    """
    parser = Parser(prog="melody", description="Train and sample MeLoDy, text-to-music in JAX.")
    parser.add_argument("--version", action="version", version=f"melody_jax {__version__}")
    subparsers: Any = parser.add_subparsers(dest="command", metavar="COMMAND")
    place = next((index for index, word in enumerate(argv) if not word.startswith("-")), len(argv))
    chosen = " ".join(argv[place : place + 2])
    if chosen in COMMANDS:
        argv = [*argv[:place], chosen, *argv[place + 2 :]]
    else:
        chosen = chosen.partition(" ")[0]
    for name, (file, text) in COMMANDS.items():
        if name != chosen:
            subparsers.add_parser(name, help=text, add_help=False)
            continue
        function = name.replace(" ", "_") + "_" * keyword.iskeyword(name)
        command = getattr(importlib.import_module(f"melody_jax.cli.{file}"), function)
        subparser = subparsers.add_parser(name, help=text, description=text, epilog=command.epilog)
        subparser.set_defaults(run=command.run)
        for add in command.options:
            add(subparser)
    args, unknown = parser.parse_known_args(argv)
    takes_gin = args.command in GIN_ARGUMENTS
    foreign = [word for word in unknown if not (takes_gin and word.startswith("--gin.") and "=" in word)]
    if foreign:
        raise UserError(f"unknown arguments: {' '.join(foreign)} (see melody {args.command} --help)")
    args.unknown = unknown
    if args.command is None:
        args.run = lambda _: parser.print_help()
    return args


if __name__ == "__main__":
    sys.exit(main())
