"""`melody train STAGE` and `melody train all`."""

import argparse
import sys

from melody_jax import graph
from melody_jax.cli.arguments import folder
from melody_jax.errors import StoppedError, UserError
from melody_jax.operations import training
from melody_jax.operations.configuration import binding_of
from melody_jax.parallel import hosts
from melody_jax.watch.goodput import process_began
from melody_jax.watch.trace import traced_steps


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "train", epilog="--gin.NAME=value binds as --set NAME=value does, but strings need their quotes."
    )
    parser.set_defaults(run=run)
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
    parser.add_argument("--set", action="append", default=[], metavar="BINDING=VALUE", help="a gin binding")
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE", help="a further gin file")
    parser.add_argument("--mesh", help="device mesh, as data=-1,fsdp=4,tensor=2 (default: data=-1)")
    parser.add_argument("--hardware", default="auto", help="a file of configs/hardware (default: by what there is)")
    parser.add_argument("--seed", type=int, help="of parameters, step randomness and data order (default 0)")


def run(args: argparse.Namespace) -> int:
    """Trains, and prints where the parts are.

    Raises:
      UserError: unknown names, bindings that nobody reads, missing data or parents.
    """
    began = process_began()
    hosts.join()
    try:
        training.train(request_of(args), args.init_from, began)
    except StoppedError as stopped:
        print(f"error: {stopped}", file=sys.stderr, flush=True)
        hosts.leave()
        return stopped.exit_code
    return 0


def request_of(args: argparse.Namespace) -> training.Request:
    """What is asked for by the arguments of `add_configuration`, and by those of `melody train` where there are any.

    Raises:
      UserError: unknown arguments, an empty --profile, or no step to take.
    """
    foreign = [argument for argument in args.unknown if not argument.startswith("--gin.") or "=" not in argument]
    if foreign:
        raise UserError(f"unknown arguments: {' '.join(foreign)} (see melody {args.command} --help)")
    bindings = [binding_of(item) for item in args.set]
    bindings += [argument.removeprefix("--gin.") for argument in args.unknown]
    options = {"mesh": args.mesh, "seed": args.seed} | {
        field: getattr(args, name, None)
        for name, field in {"precompiled": "precompiled_dir", "profile": "profile"}.items()
    }
    if options["profile"] is not None and not traced_steps(options["profile"]):
        raise UserError("--profile is empty; expected FIRST:LAST, as 10:15")
    bindings += [f"loop.Run.{name} = {value!r}" for name, value in options.items() if value is not None]
    total = getattr(args, "total_steps", None)
    if total is not None:
        if total < 1:
            raise UserError(f"--total_steps must be at least 1, got {total}")
        bindings.append(f"TOTAL_STEPS = {total}")
    where = {
        name: getattr(args, name) for name in ("data", "model_dir", "data_dir", "tokenizer") if hasattr(args, name)
    }
    where = {"data": "", "model_dir": ""} | where
    return training.Request(
        args.stage, args.size, hardware=args.hardware, gin_files=args.gin_file, bindings=bindings, **where
    )
