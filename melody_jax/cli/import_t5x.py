"""`melody import t5x`: a T5X checkpoint becomes the part of a stage."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from melody_jax.cli import arguments
from melody_jax.graph import READ_TOKENS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help=".../checkpoint_N")
    parser.add_argument("--model", required=True, choices=READ_TOKENS, help="the stage")
    size = "a folder of configs/sizes: what the run was configured with"
    arguments.add(parser, out="gets the part", size=size, model_dir="where the parts are that made the tokens")
    arguments.add(parser, set="a gin binding of the run", gin_file="a further gin file of the run")


def run(args: argparse.Namespace) -> None:
    from melody_jax.cli import train
    from melody_jax.interop import t5x_layout
    from melody_jax.operations.training import Request
    from melody_jax.train.end import PART

    bound = {"gin_files": args.gin_file, "bindings": train.bindings_of(args)}
    request = Request(args.model, args.size, "", args.model_dir, **bound)
    stage: Any = request.compose_one().stage
    out = Path(args.out) / PART
    part = t5x_layout.import_checkpoint(args.path, dataclasses.replace(stage, parents_dir=args.model_dir), out)
    print(f"{part.name}: {part.parameters:,} numbers of {args.path} in {out}")
