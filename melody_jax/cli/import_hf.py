"""`melody import hf`: a Hugging Face folder becomes a part that training can start from."""

import argparse
from pathlib import Path

from melody_jax.cli import arguments

BINDINGS = "config.gin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a folder with config.json and model.safetensors")
    parser.add_argument("--model", required=True, help="llama, bert, ast, wav2vec2-conformer or hifigan")
    arguments.add(parser, out="gets the part, and config.gin with its shape")
    drop = "leave out tensors of this name (regular expression)"
    parser.add_argument("--drop", action="append", default=[], metavar="PATTERN", help=drop)


def run(args: argparse.Namespace) -> None:
    from melody_jax.interop import huggingface
    from melody_jax.train.end import PART

    out = Path(args.out)
    part, bindings = huggingface.import_folder(args.path, out / PART, args.model, args.drop)
    (out / BINDINGS).write_text(bindings)
    print(f"{part.name}: {part.parameters:,} numbers of {args.path} in {out / PART}")
    with_shape = f"--gin_file {out / BINDINGS} gives a model of this shape"
    print(f"melody train ... --init_from {out} starts from them; {with_shape}")
