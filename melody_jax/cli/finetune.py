"""`melody finetune`: a bundle goes on learning, on music of one's own."""

import argparse

from melody_jax.cli import arguments
from melody_jax.cli.arguments import folder, positive
from melody_jax.graph import READ_TOKENS
from melody_jax.operations.configuration import binding_of
from melody_jax.operations.finetuning import Finetuning, finetune
from melody_jax.parallel import hosts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True, type=folder, metavar="DIR", help="where it begins")
    parser.add_argument("--data", required=True, metavar="NAME", help="name of the data set, as given to melody data")
    parser.add_argument("--out", required=True, type=folder, metavar="DIR", help="tokens, runs, and DIR/bundle")
    parser.add_argument("--data_dir", default="./data", type=folder, metavar="DIR", help="where data sets lie")
    parser.add_argument(
        "--stages", default=",".join(READ_TOKENS), help=f"what learns (default {','.join(READ_TOKENS)})"
    )
    parser.add_argument("--lora", type=positive, metavar="RANK", help="train adapters of this rank, not all weights")
    parser.add_argument("--alpha", type=float, default=16.0, help="adapters count alpha / rank (default 16)")
    parser.add_argument("--total_steps", type=positive, help="of each stage, instead of the configuration's")
    arguments.add_bindings(parser)
    arguments.add_hardware(parser)


def run(args: argparse.Namespace) -> None:
    """Finetunes, and says where the bundle is."""
    hosts.join()
    bindings = [binding_of(item) for item in args.set]
    if args.total_steps:
        bindings.append(f"TOTAL_STEPS = {args.total_steps}")
    stages = tuple(name.strip() for name in args.stages.split(",") if name.strip())
    where = args.bundle, args.data, args.out, args.data_dir
    how = args.lora or 0, args.alpha, args.hardware, args.gin_file, bindings
    bundle = finetune(Finetuning(*where, stages, *how))
    print(f'finetuned: {bundle.directory}; melody generate "..." --bundle {bundle.directory}')
