"""`melody finetune`: a bundle goes on learning, on music of one's own."""

import argparse
import sys

from melody_jax.cli.arguments import folder, positive
from melody_jax.errors import StoppedError
from melody_jax.graph import READ_TOKENS
from melody_jax.operations.configuration import binding_of
from melody_jax.operations.finetuning import Finetuning, finetune
from melody_jax.parallel import hosts


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("finetune")
    parser.set_defaults(run=run)
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
    parser.add_argument("--set", action="append", default=[], metavar="BINDING=VALUE", help="a gin binding")
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE", help="a further gin file")
    parser.add_argument("--hardware", default="auto", help="a file of configs/hardware (default: by what there is)")


def run(args: argparse.Namespace) -> int:
    """Finetunes, and says where the bundle is.

    Raises:
      UserError: see `finetuning.finetune`.
    """
    hosts.join()
    bindings = [binding_of(item) for item in args.set]
    if args.total_steps:
        bindings.append(f"TOTAL_STEPS = {args.total_steps}")
    stages = tuple(name.strip() for name in args.stages.split(",") if name.strip())
    try:
        bundle = finetune(
            Finetuning(
                args.bundle,
                args.data,
                args.out,
                args.data_dir,
                stages,
                args.lora or 0,
                args.alpha,
                args.hardware,
                args.gin_file,
                bindings,
            )
        )
    except StoppedError as stopped:
        print(f"error: {stopped}", file=sys.stderr, flush=True)
        hosts.leave()
        return stopped.exit_code
    print(f'finetuned: {bundle.directory}; melody generate "..." --bundle {bundle.directory}')
    return 0
