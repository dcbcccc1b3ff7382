"""`melody report MODEL_DIR`: how the training of every stage goes. Runs that are still going on are only read."""

import argparse
import dataclasses
import json

from melody_jax import storage
from melody_jax.cli.arguments import command, option, shared
from melody_jax.errors import UserError
from melody_jax.graph import ORDER
from melody_jax.watch import report as reports


@command(
    option("model_dir", "as given to melody train", metavar="MODEL_DIR"),
    shared("json"),
    option("--out", "where the plot goes (default MODEL_DIR/report.png)", metavar="PNG"),
)
def report(args: argparse.Namespace) -> None:
    directory = storage.path(args.model_dir)
    out = storage.path(args.out or directory / reports.PLOT)
    if out.suffix != ".png":
        raise UserError(f"--out {out} is no .png")
    stages = reports.read(directory, ORDER)
    reports.plot(stages, directory, out)
    if args.json:
        print(json.dumps({stage.name: dataclasses.asdict(stage) for stage in stages}, indent=2))
    else:
        print(reports.table(stages), f"plot: {out}", sep="\n")
