"""`melody export hf`: Hugging Face folders of the trained parts that have a counterpart there."""

import argparse

from melody_jax.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add(
        parser, model_dir="where `melody train` put the stages, or a part", out="gets a folder for each model"
    )
    parser.add_argument("--dtype", help="of the weights: float32, float16 or bfloat16 (default: that of the parts)")


def run(args: argparse.Namespace) -> None:
    from melody_jax.interop import huggingface

    for said in huggingface.export_parts(args.model_dir, args.out, args.dtype):
        print(said)
