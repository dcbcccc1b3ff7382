"""`melody import`: a Hugging Face folder becomes a part that training can start from, a T5X checkpoint one of a stage."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from melody_jax.errors import UserError

BINDINGS = "config.gin"


def add_parser(subparsers) -> None:
    formats = subparsers.add_parser("import").add_subparsers(dest="format", required=True, metavar="FORMAT")
    text = "a Hugging Face folder becomes a part that training can start from"
    hf = formats.add_parser("hf", help=text, description=text)
    hf.set_defaults(run=_hf)
    hf.add_argument("path", metavar="DIR", help="with config.json and model.safetensors")
    hf.add_argument("--model", required=True, help="llama, bert, ast, wav2vec2-conformer or hifigan")
    hf.add_argument("--out", required=True, metavar="DIR", help="gets the part, and config.gin with its shape")
    hf.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out tensors of this name (regular expression)",
    )
    text = "a T5X checkpoint becomes the part of a stage"
    t5x = formats.add_parser("t5x", help=text, description=text)
    t5x.set_defaults(run=_t5x)
    t5x.add_argument("path", metavar="DIR", help=".../checkpoint_N")
    t5x.add_argument("--model", required=True, help="the stage: lm or dpd")
    t5x.add_argument("--out", required=True, metavar="DIR", help="gets the part")
    t5x.add_argument("--size", required=True, help="a folder of configs/sizes: what the run was configured with")
    t5x.add_argument("--model_dir", required=True, metavar="DIR", help="where the parts are that made the tokens")
    t5x.add_argument("--set", action="append", default=[], metavar="BINDING=VALUE", help="a gin binding of the run")
    t5x.add_argument("--gin_file", action="append", default=[], metavar="FILE", help="a further gin file of the run")


def _hf(args: argparse.Namespace) -> None:
    from melody_jax.interop import huggingface
    from melody_jax.train.end import PART

    out = Path(args.out)
    part, bindings = huggingface.import_folder(args.path, out / PART, args.model, args.drop)
    (out / BINDINGS).write_text(bindings)
    print(f"{part.name}: {part.parameters:,} numbers of {args.path} in {out / PART}")
    print(
        f"melody train ... --init_from {out} starts from them; --gin_file {out / BINDINGS} gives a model of this shape"
    )


def _t5x(args: argparse.Namespace) -> None:
    from melody_jax.interop import t5x_layout
    from melody_jax.operations import configuration
    from melody_jax.train.end import PART

    if args.model not in t5x_layout.STAGES:
        raise UserError(f"unknown model {args.model!r}; choose one of {', '.join(t5x_layout.STAGES)}")
    files = configuration.gin_files(args.model, args.size, configuration.detect_hardware())
    bindings = [configuration.binding_of(item) for item in args.set]
    stage: Any = configuration.compose(files, args.gin_file, bindings).stage
    stage = dataclasses.replace(stage, parents_dir=args.model_dir)
    out = Path(args.out)
    part = t5x_layout.import_checkpoint(args.path, stage, out / PART)
    print(f"{part.name}: {part.parameters:,} numbers of {args.path} in {out / PART}")
