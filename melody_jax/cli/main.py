"""`melody COMMAND ...`: parses, calls the command's file, and turns UserError into one line and exit code 2."""

import argparse
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from melody_jax import __version__
from melody_jax.errors import BAD_ARGUMENTS, INTERRUPTED, StoppedError, UserError, refuse_addresses
from melody_jax.operations.quiet import quiet_workers, silence_tensorflow

# In the order of use, each with its one help text. Each module has `add_arguments(parser)` and `run(args)`, and maybe an
# EPILOG of its help; only the chosen one is imported.
COMMANDS = {
    "data": "build a captioned audio data set: the built-in corpus or your own music",
    "config": "print the composed configuration of a stage",
    "doctor": "check data, one step and the disk before a long training",
    "train": "train one stage, or all of them in order",
    "finetune": "train a bundle's language and diffusion models further on your own music",
    "sweep": "train with many settings and compare what they reach",
    "tokenize": "turn a data set into tokens and latents with the trained representation models",
    "report": "how the training of every stage goes: losses, speed, where the time went",
    "export": "collect trained parts into a bundle for sampling",
    "export hf": "write trained parts as Hugging Face folders",
    "export t5x": "write trained parts as T5X checkpoints",
    "export stablehlo": "write a bundle's sampler as programs that run with jax alone",
    "generate": "make music from sentences with a bundle",
    "continue": "go on with music",
    "inpaint": "make spans of music anew",
    "vary": "make another version of music",
    "stream": "endless music into a file or a pipe",
    "play": "endless music from the loudspeaker",
    "serve": "a web page and a REST service with a bundle",
    "evaluate": "measure trained stages or a bundle on held-out music",
    "listen": "compare two folders of music by ear, without knowing which is which",
    "import hf": "read a Hugging Face folder: a part that training can start from",
    "import t5x": "read a T5X checkpoint: the part of a stage",
    "rehearse": "a launch on a simulated pod of this machine, and what it would take on its slices",
    "launch": "run a command on TPU VMs, GKE or SLURM",
    "precompile": "compile for a TPU slice without one: memory, time, MFU",
    "describe": "parameters and FLOPs of every model of a size",
}

GIN_ARGUMENTS = ("train", "doctor", "config")
"""Commands that take --gin.NAME=value."""

TEXTS = ("prompts", "prompt", "negative", "title", "licence", "storage", "cors")
"""Arguments in which an address is as good as any word: text for people, URLs of databases and of pages."""

BUCKETS = {
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

MODULES = {"continue": "continue_"}  # the others are called like their command


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
    except (RuntimeError, AssertionError) as error:
        if not _lacks_devices(error):
            raise
        asked = os.environ.get("JAX_PLATFORMS", "")
        print(f"error: JAX_PLATFORMS={asked}: this machine or installation has no such device", file=sys.stderr)
        return BAD_ARGUMENTS
    except Exception as error:
        from melody_jax import storage

        if not (reason := storage.refusal(error)):
            raise
        print(f"error: the bucket may not be used from here: {reason}", file=sys.stderr)
        return BAD_ARGUMENTS
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one, while threads and processes end, says nothing more
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _lacks_devices(error: Exception) -> bool:
    """Whether JAX_PLATFORMS names devices that are not here. For CUDA, JAX fails at an assertion without a word."""
    if "nable to initialize backend" in str(error):
        return True
    place = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, AssertionError) and (place.name, place.filename[-13:]) == ("backends", "xla_bridge.py")


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
    for name, text in COMMANDS.items():
        if name == chosen:
            module = importlib.import_module(f"melody_jax.cli.{MODULES.get(name, name.replace(' ', '_'))}")
            epilog = getattr(module, "EPILOG", None)
            command = subparsers.add_parser(name, help=text, description=text, epilog=epilog)
            command.set_defaults(run=module.run)
            module.add_arguments(command)
        else:
            subparsers.add_parser(name, help=text, add_help=False)
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
