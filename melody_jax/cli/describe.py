"""`melody describe`: parameters and FLOPs of every model of a size, without a single weight."""

import argparse
import json

from melody_jax.graph import NETWORKS


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("describe")
    parser.set_defaults(run=run)
    parser.add_argument("--size", default="tiny", help="of configs/sizes (default tiny)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> None:
    """Prints, for each model, parameters and model FLOPs of one clip.

    Raises:
      UserError: no such size.
    """
    from melody_jax.operations.describe import describe

    models = {name: describe(name, args.size) for name in NETWORKS}
    if args.json:
        print(json.dumps({"size": args.size, "models": models}, indent=2))
        return
    print(f"| {args.size} | parameters | forward | training step | one pass is |")
    print("|---|---|---|---|---|")
    for name, row in models.items():
        flops = [f"{row[key] / 1e9:,.1f} GFLOPs" for key in ("forward_flops", "training_flops")]
        print(f"| {name} | {row['parameters'] / 1e6:.2f} M | {flops[0]} | {flops[1]} | {row['forward']} |")
    total = sum(row["parameters"] for row in models.values())
    print(f"| together | {total / 1e6:.2f} M | | | |")
