"""`melody tokenize`: audio and captions become MuLan tokens, semantic tokens and latents: training data of LM and DPD."""

import argparse

from melody_jax.cli import arguments
from melody_jax.operations import tokens
from melody_jax.parallel import hosts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add(parser, "data", "data_dir", "tokenizer", model_dir="the trained stages; tokens are written here")
    parser.add_argument("--batch_size", action=arguments.Positive, default=16, help="clips at once (default 16)")


def run(args: argparse.Namespace) -> None:
    hosts.join()
    options = {"batch_size": args.batch_size, "tokenizer": args.tokenizer}
    print(f"tokens in {tokens.of_model_dir(args.model_dir, args.data, args.data_dir, **options)}")
