"""`melody train STAGE` and `melody train all`."""

import argparse
import dataclasses
from collections.abc import Sequence

from melody_jax import graph
from melody_jax.cli import arguments
from melody_jax.errors import UserError
from melody_jax.operations import training
from melody_jax.operations.configuration import binding_of
from melody_jax.parallel import hosts
from melody_jax.watch.goodput import process_began
from melody_jax.watch.trace import traced_steps

EPILOG = "--gin.NAME=value binds as --set NAME=value does, but strings need their quotes."
BOUND = {
    "mesh": "loop.Run.mesh",
    "seed": "loop.Run.seed",
    "precompiled": "loop.Run.precompiled_dir",
    "profile": "loop.Run.profile",
    "total_steps": "TOTAL_STEPS",
}
"""Argument -> the parameter of gin that it binds, where it is given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_configuration(parser, f"{', '.join(graph.ORDER)}, or all")
    arguments.add(parser, "total_steps")
    text = "start from weights: a part, a finished stage, a bundle or a Hugging Face folder; may be given several times"
    parser.add_argument("--init_from", action="append", default=[], metavar="DIR", help=text)
    parser.add_argument("--precompiled", metavar="DIR", help="executables written by melody precompile --save")
    parser.add_argument("--profile", metavar="FIRST:LAST", help="trace these steps (for XProf) into DIR/STAGE/profile")


def add_configuration(parser: argparse.ArgumentParser, choices: str) -> None:
    """The arguments that say what is trained (`choices` of STAGE), on what, and where."""
    add_composition(parser, choices)
    text = "name of the data set, as given to melody data; several by their rates: a:0.7,b:0.3"
    arguments.add(parser, "data_dir", "tokenizer", data=text, model_dir="everything is written to DIR/STAGE")


def add_composition(parser: argparse.ArgumentParser, choices: str) -> None:
    """The arguments that say how a stage is configured."""
    parser.add_argument("stage", metavar="STAGE", help=choices)
    arguments.add(parser, "size", "set", "gin_file", "mesh", "hardware")
    parser.add_argument("--seed", type=int, help="of parameters, step randomness and data order (default 0)")


def run(args: argparse.Namespace) -> None:
    began = process_began()
    hosts.join()
    training.train(request_of(args), args.init_from, began)


def request_of(args: argparse.Namespace) -> training.Request:
    """What is asked for by the arguments of `add_composition`, and by more of those of `melody train` where there are any.

    Raises:
      UserError: an empty --profile.
    """
    profile = getattr(args, "profile", None)
    if profile is not None and not traced_steps(profile):
        raise UserError("--profile is empty; expected FIRST:LAST, as 10:15")
    fields = arguments.fields_of(args, training.Request)
    return training.Request(**fields, gin_files=args.gin_file, bindings=bindings_of(args))


def bindings_of(args: argparse.Namespace) -> list[str]:
    """What gin reads of --set, of --gin.NAME and of the arguments in `BOUND`, the last ones winning.

    Raises:
      UserError: a --set without a value.
    """
    given = {name: value for name, value in vars(args).items() if value is not None}
    bindings = [binding_of(item) for item in args.set]
    bindings += [word.removeprefix("--gin.") for word in args.unknown]
    return bindings + [f"{parameter} = {given[name]!r}" for name, parameter in BOUND.items() if name in given]


def request_in(words: Sequence[str], hardware: str) -> training.Request:
    """What the words of `melody train ...` ask for, on this hardware where they name none.

    Raises:
      UserError: they are wrong.
    """
    from melody_jax.cli.main import parse

    request = request_of(parse(words))
    return dataclasses.replace(request, hardware=hardware) if request.hardware == "auto" else request
