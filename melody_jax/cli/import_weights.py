"""`melody import`: a Hugging Face folder becomes a part that training can start from, a T5X checkpoint one of a stage."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from melody_jax.errors import UserError

BINDINGS = "config.gin"


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "import",
        epilog="--drop is for hf, --size, --model_dir, --set and --gin_file are for t5x.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("format", choices=("hf", "t5x"), help="hf: a Hugging Face folder; t5x: a T5X checkpoint")
    parser.add_argument("path", metavar="PATH", help="with config.json and model.safetensors; or .../checkpoint_N")
    parser.add_argument("--model", required=True, help="llama, bert, ast, wav2vec2-conformer or hifigan; or lm, dpd")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="gets the part, and for hf config.gin with its shape"
    )
    parser.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out tensors of this name (regular expression)",
    )
    parser.add_argument("--size", help="a folder of configs/sizes: what the run was configured with")
    parser.add_argument("--model_dir", metavar="DIR", help="where the parts are that made the tokens")
    parser.add_argument("--set", action="append", default=[], metavar="BINDING=VALUE", help="a gin binding of the run")
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE", help="a further gin file of the run")


def run(args: argparse.Namespace) -> None:
    """Writes OUT/part, and OUT/config.gin for a Hugging Face model.

    Raises:
      UserError: the weights are of another model, missing, extra or wrongly shaped, or a bad argument.
    """
    {"hf": _import_hf, "t5x": _import_t5x}[args.format](args)


def _import_hf(args: argparse.Namespace) -> None:
    from melody_jax.interop import huggingface
    from melody_jax.train.end import PART

    _refuse(args, "size", "model_dir", "set", "gin_file")
    out = Path(args.out)
    part, bindings = huggingface.import_folder(args.path, out / PART, args.model, args.drop)
    (out / BINDINGS).write_text(bindings)
    print(f"{part.name}: {part.parameters:,} numbers of {args.path} in {out / PART}")
    print(
        f"melody train ... --init_from {out} starts from them; --gin_file {out / BINDINGS} gives a model of this shape"
    )


def _import_t5x(args: argparse.Namespace) -> None:
    from melody_jax.interop import t5x_layout
    from melody_jax.operations import configuration
    from melody_jax.train.end import PART

    _refuse(args, "drop")
    if args.model not in t5x_layout.STAGES:
        raise UserError(f"unknown model {args.model!r}; choose one of {', '.join(t5x_layout.STAGES)}")
    for name in ("size", "model_dir"):
        if getattr(args, name) is None:
            raise UserError(f"melody import t5x needs --{name}")
    files = configuration.gin_files(args.model, args.size, configuration.detect_hardware())
    bindings = [configuration.binding_of(item) for item in args.set]
    stage: Any = configuration.compose(files, args.gin_file, bindings).stage
    stage = dataclasses.replace(stage, parents_dir=args.model_dir)
    out = Path(args.out)
    part = t5x_layout.import_checkpoint(args.path, stage, out / PART)
    print(f"{part.name}: {part.parameters:,} numbers of {args.path} in {out / PART}")


def _refuse(args: argparse.Namespace, *names: str) -> None:
    given = [name for name in names if getattr(args, name)]
    if given:
        raise UserError(f"--{given[0]} is not for melody import {args.format}")
