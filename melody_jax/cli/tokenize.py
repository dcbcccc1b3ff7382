"""`melody tokenize`: audio and captions become MuLan tokens, semantic tokens and latents: training data of LM and DPD."""

import argparse

from melody_jax.cli.arguments import folder, positive
from melody_jax.operations import tokens
from melody_jax.parallel import hosts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_dir", required=True, type=folder, metavar="DIR", help="the trained stages; tokens are written here"
    )
    parser.add_argument("--data", required=True, metavar="NAME", help="name of the audio data set")
    parser.add_argument("--data_dir", default="./data", type=folder, metavar="DIR", help="where audio data sets lie")
    parser.add_argument("--batch_size", type=positive, default=16, help="clips at once (default 16)")
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json of a MuLan text tower of your own")


def run(args: argparse.Namespace) -> None:
    """Makes the tokens unless they are there, and says where."""
    hosts.join()
    options = {"batch_size": args.batch_size, "tokenizer": args.tokenizer}
    print(f"tokens in {tokens.of_model_dir(args.model_dir, args.data, args.data_dir, **options)}")
