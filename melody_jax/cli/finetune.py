"""`melody finetune`: a bundle goes on learning, on music of one's own."""

import argparse
from typing import Any

from melody_jax.cli import arguments, train
from melody_jax.graph import READ_TOKENS
from melody_jax.operations.finetuning import Finetuning, finetune
from melody_jax.parallel import hosts

STAGES = ",".join(READ_TOKENS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True, type=arguments.folder, metavar="DIR", help="where it begins")
    arguments.add(parser, "data", "data_dir", out="tokens, runs, and DIR/bundle")
    parser.add_argument("--stages", default=STAGES, help=f"what learns (default {STAGES})")
    rank = "train adapters of this rank, not all weights"
    parser.add_argument("--lora", dest="rank", action=arguments.Positive, default=0, metavar="RANK", help=rank)
    arguments.add_fields(parser, Finetuning, ("alpha",))
    arguments.add(parser, "set", "gin_file", "hardware", total_steps="of each stage, instead of the configuration's")


def run(args: argparse.Namespace) -> None:
    hosts.join()
    stages = tuple(name.strip() for name in args.stages.split(",") if name.strip())
    given: dict[str, Any] = arguments.fields_of(args, Finetuning) | {"stages": stages}
    bundle = finetune(Finetuning(**given, gin_files=args.gin_file, bindings=train.bindings_of(args)))
    print(f'finetuned: {bundle.directory}; melody generate "..." --bundle {bundle.directory}')
