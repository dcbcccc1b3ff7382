"""`melody train STAGE` and `train all`, `config`, `doctor`, `tokenize`, `finetune`: what trains, and what goes with it."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from melody_jax import graph
from melody_jax.cli.arguments import Positive, command, fields, fields_of, folder, option, several, shared
from melody_jax.errors import UserError
from melody_jax.generate.settings import BATCH_SIZE
from melody_jax.operations import finetuning, training
from melody_jax.operations.configuration import binding_of
from melody_jax.parallel import hosts
from melody_jax.watch.goodput import process_began
from melody_jax.watch.trace import traced_steps

BOUND = {
    "mesh": "loop.Run.mesh",
    "seed": "loop.Run.seed",
    "precompiled": "loop.Run.precompiled_dir",
    "profile": "loop.Run.profile",
    "total_steps": "TOTAL_STEPS",
}
"""Argument -> the parameter of gin that it binds, where it is given."""
STAGES = ", ".join(graph.ORDER)
CONFIGURATION = (
    shared("size", "set", "gin_file", "mesh", "hardware"),
    option("--seed", "of parameters, step randomness and data order (default 0)", type=int),
)
"""How a stage is configured."""
NAMES = "name of the data set, as given to melody data; several by their rates: a:0.7,b:0.3"
PLACES = shared("data_dir", "tokenizer", data=NAMES, model_dir="everything is written to DIR/STAGE")
"""On what it is trained, and where."""


@command(
    option("stage", f"{STAGES}, or all", metavar="STAGE"),
    *CONFIGURATION,
    PLACES,
    shared("total_steps"),
    several(
        "--init_from",
        "DIR",
        "start from weights: a part, a finished stage, a bundle or a Hugging Face folder; may be given several times",
    ),
    option("--precompiled", "executables written by melody precompile --save", metavar="DIR"),
    option("--profile", "trace these steps (for XProf) into DIR/STAGE/profile", metavar="FIRST:LAST"),
    epilog="--gin.NAME=value binds as --set NAME=value does, but strings need their quotes.",
)
def train(args: argparse.Namespace) -> None:
    began = process_began()
    hosts.join()
    training.train(request_of(args), args.init_from, began)


@command(
    option("stage", STAGES, metavar="STAGE"),
    *CONFIGURATION,
    shared("total_steps"),
)
def config(args: argparse.Namespace) -> None:
    print(request_of(args).compose_one().text, end="")


@command(
    option("stage", STAGES, metavar="STAGE"),
    *CONFIGURATION,
    PLACES,
    option("--updates", "of the parameters, on one fixed batch (default 30)", action=Positive, default=30),
    shared("json"),
    epilog="Exit code 1: at least one finding is a failure.",
)
def doctor(args: argparse.Namespace) -> int:
    import jax

    from melody_jax.operations.doctor.examine import examine
    from melody_jax.operations.doctor.finding import FAILURE

    hosts.join()
    findings, first_host = [], jax.process_index() == 0
    for finding in examine(request_of(args), args.updates):
        findings.append(finding)
        if first_host and not args.json:
            print(finding, flush=True)
    if first_host and args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    return int(any(finding.level == FAILURE for finding in findings))


@command(
    shared("data", "data_dir", "tokenizer", model_dir="the trained stages; tokens are written here"),
    option("--batch_size", f"clips at once (default {BATCH_SIZE})", action=Positive, default=BATCH_SIZE),
    option(
        "--drawn",
        "make tokens of this name beside them, of which the language model draws some anew: for the training of a diffusion "
        "model that is to play its tokens",
        metavar="NAME",
    ),
    option("--lm_guidance", "of these draws (default 1)", type=float, default=1.0),
)
def tokenize(args: argparse.Namespace) -> None:
    from melody_jax.operations import tokens

    hosts.join()
    options = {"batch_size": args.batch_size, "tokenizer": args.tokenizer}
    places = args.model_dir, args.data, args.data_dir
    if args.drawn is None:
        made = tokens.of_model_dir(*places, **options)
    else:
        made = tokens.drawn(*places, args.drawn, args.lm_guidance, **options)
    print(f"tokens in {made}")


LEARNING = ",".join(graph.READ_TOKENS)


@command(
    option("--bundle", "where it begins", required=True, type=folder, metavar="DIR"),
    shared("data", "data_dir", out="tokens, runs, and DIR/bundle"),
    option("--stages", f"what learns (default {LEARNING})", default=LEARNING),
    option(
        "--lora",
        "train adapters of this rank, not all weights",
        dest="rank",
        action=Positive,
        default=0,
        metavar="RANK",
    ),
    fields(finetuning.Finetuning, ("alpha",)),
    shared("set", "gin_file", "hardware", total_steps="of each stage, instead of the configuration's"),
)
def finetune(args: argparse.Namespace) -> None:
    hosts.join()
    stages = tuple(name.strip() for name in args.stages.split(",") if name.strip())
    given: dict[str, Any] = fields_of(args, finetuning.Finetuning) | {"stages": stages}
    asked = finetuning.Finetuning(**given, gin_files=args.gin_file, bindings=bindings_of(args))
    bundle = finetuning.finetune(asked)
    print(f'finetuned: {bundle.directory}; melody generate "..." --bundle {bundle.directory}')


def request_of(args: argparse.Namespace) -> training.Request:
    """What is asked for by the arguments of `CONFIGURATION`, and by more of those of `melody train` where there are any.

    Raises:
      UserError: an empty --profile.
    """
    profile = getattr(args, "profile", None)
    if profile is not None and not traced_steps(profile):
        raise UserError("--profile is empty; expected FIRST:LAST, as 10:15")
    return training.Request(**fields_of(args, training.Request), gin_files=args.gin_file, bindings=bindings_of(args))


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
