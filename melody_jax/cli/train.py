"""`melody train STAGE` and `melody train all`."""

import argparse

from melody_jax import graph
from melody_jax.cli import arguments
from melody_jax.cli.arguments import folder
from melody_jax.errors import UserError
from melody_jax.operations import training
from melody_jax.operations.configuration import binding_of
from melody_jax.parallel import hosts
from melody_jax.watch.goodput import process_began
from melody_jax.watch.trace import traced_steps

EPILOG = "--gin.NAME=value binds as --set NAME=value does, but strings need their quotes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_configuration(parser, f"{', '.join(graph.ORDER)}, or all")
    parser.add_argument("--total_steps", type=int, help="instead of the configuration's")
    parser.add_argument(
        "--init_from",
        action="append",
        default=[],
        metavar="DIR",
        help="start from weights: a part, a finished stage, a bundle, or a Hugging Face folder; may be given several times",
    )
    parser.add_argument("--precompiled", metavar="DIR", help="executables written by melody precompile --save")
    parser.add_argument("--profile", metavar="FIRST:LAST", help="trace these steps (for XProf) into DIR/STAGE/profile")


def add_configuration(parser: argparse.ArgumentParser, choices: str) -> None:
    """The arguments that say what is trained (`choices` of STAGE), on what, and where."""
    add_composition(parser, choices)
    parser.add_argument(
        "--data",
        required=True,
        metavar="NAME",
        help="name of the data set, as given to melody data; several by their rates: a:0.7,b:0.3",
    )
    parser.add_argument(
        "--model_dir", required=True, type=folder, metavar="DIR", help="everything is written to DIR/STAGE"
    )
    parser.add_argument(
        "--data_dir", default="./data", type=folder, metavar="DIR", help="where data sets lie (default ./data)"
    )
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json of a MuLan text tower of your own")


def add_composition(parser: argparse.ArgumentParser, choices: str) -> None:
    """The arguments that say how a stage is configured."""
    parser.add_argument("stage", metavar="STAGE", help=choices)
    parser.add_argument("--size", required=True, help="a folder of configs/sizes: tiny, small, paper")
    arguments.add_bindings(parser)
    parser.add_argument("--mesh", help="device mesh, as data=-1,fsdp=4,tensor=2 (default: data=-1)")
    arguments.add_hardware(parser)
    parser.add_argument("--seed", type=int, help="of parameters, step randomness and data order (default 0)")


def run(args: argparse.Namespace) -> None:
    """Trains, and prints where the parts are."""
    began = process_began()
    hosts.join()
    training.train(request_of(args), args.init_from, began)


def request_of(args: argparse.Namespace) -> training.Request:
    """What is asked for by the arguments of `add_configuration`, and by those of `melody train` where there are any.

    Raises:
      UserError: unknown arguments, an empty --profile, or no step to take.
    """
    foreign = [word for word in args.unknown if not word.startswith("--gin.") or "=" not in word]
    if foreign:
        raise UserError(f"unknown arguments: {' '.join(foreign)} (see melody {args.command} --help)")
    given = {"data": "", "model_dir": "", "precompiled": None, "profile": None, "total_steps": None} | vars(args)
    if given["profile"] is not None and not traced_steps(given["profile"]):
        raise UserError("--profile is empty; expected FIRST:LAST, as 10:15")
    bindings = [binding_of(item) for item in args.set]
    bindings += [word.removeprefix("--gin.") for word in args.unknown]
    of_run = {"mesh": "mesh", "seed": "seed", "precompiled": "precompiled_dir", "profile": "profile"}
    bindings += [f"loop.Run.{field} = {given[name]!r}" for name, field in of_run.items() if given[name] is not None]
    arguments.check_positive(args, "total_steps")
    if given["total_steps"] is not None:
        bindings.append(f"TOTAL_STEPS = {given['total_steps']}")
    where = {name: given[name] for name in ("data", "model_dir", "data_dir", "tokenizer") if name in given}
    return training.Request(
        args.stage, args.size, **where, hardware=args.hardware, gin_files=args.gin_file, bindings=bindings
    )
