"""`melody report MODEL_DIR`: how the training of every stage goes. Runs that are still going on are only read."""

import argparse
import dataclasses
import json

from melody_jax import storage
from melody_jax.cli import arguments
from melody_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="as given to melody train")
    arguments.add(parser, "json")
    parser.add_argument("--out", metavar="PNG", help="where the plot goes (default MODEL_DIR/report.png)")


def run(args: argparse.Namespace) -> None:
    from melody_jax.graph import ORDER
    from melody_jax.watch import report

    folder = storage.path(args.model_dir)
    out = storage.path(args.out or folder / report.PLOT)
    if out.suffix != ".png":
        raise UserError(f"--out {out} is no .png")
    reports = report.read(folder, ORDER)
    report.plot(reports, folder, out)
    if args.json:
        print(json.dumps({stage.name: dataclasses.asdict(stage) for stage in reports}, indent=2))
    else:
        print(report.table(reports), f"plot: {out}", sep="\n")
