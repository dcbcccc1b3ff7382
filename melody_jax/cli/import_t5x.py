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
    parser.add_argument("--out", required=True, metavar="DIR", help="gets the part")
    parser.add_argument("--size", required=True, help="a folder of configs/sizes: what the run was configured with")
    parser.add_argument("--model_dir", required=True, metavar="DIR", help="where the parts are that made the tokens")
    arguments.add_bindings(parser, " of the run")


def run(args: argparse.Namespace) -> None:
    """Writes OUT/part."""
    from melody_jax.interop import t5x_layout
    from melody_jax.operations import configuration, training
    from melody_jax.train.end import PART

    bindings = [configuration.binding_of(item) for item in args.set]
    request = training.Request(args.model, args.size, "", args.model_dir, gin_files=args.gin_file, bindings=bindings)
    stage: Any = request.compose()[args.model].stage
    out = Path(args.out) / PART
    part = t5x_layout.import_checkpoint(args.path, dataclasses.replace(stage, parents_dir=args.model_dir), out)
    print(f"{part.name}: {part.parameters:,} numbers of {args.path} in {out}")
