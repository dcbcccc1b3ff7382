"""`melody evaluate`: every model of a bundle on held-out music, each figure beside its baseline."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from melody_jax.cli.arguments import command, fields, fields_of, installed, option, several, shared
from melody_jax.errors import UserError
from melody_jax.evaluate.figures import table, write_report

with installed("melody evaluate"):
    from melody_jax.operations.evaluation import Evaluation
    from melody_jax.operations.evaluation import evaluate as measured


@command(
    option("--bundle", "what `melody export` wrote", required=True, metavar="DIR"),
    shared("data_dir", data="name of the audio data set; its test split counts"),
    shared(out="report.md, report.json, report.csv and, if need be, tokens"),
    option("--model_dir", "where the bundle was trained, to use its tokens again", metavar="DIR"),
    fields(Evaluation, ("clips", "links", "prompts", "seed")),
    several(
        "--judge",
        "NAME=PATH",
        "also measure distances by that model's embeddings: a TorchScript file or a transformers folder",
    ),
    epilog="Exit code 1: a figure is missed.",
)
def evaluate(args: argparse.Namespace) -> int:
    given = fields_of(args, Evaluation)
    found = measured(Evaluation(**given, token_dir=args.model_dir or args.out, judges=_judges_of(args.judge)))
    print(*(entry.markdown() for entry in found.tables), table(found.figures), sep="\n\n")
    write_report(Path(args.out), found.figures, found.facts, found.tables, Path(args.bundle).resolve().name)
    missed = [f"{figure.stage}: {figure.name}" for figure in found.figures if figure.missed]
    if missed:
        print(f"missed: {'; '.join(missed)}")
    return 1 if missed else 0


def _judges_of(items: Sequence[str]) -> dict[str, str]:
    """--judge: name -> path."""
    judges = {}
    for item in items:
        name, separator, path = item.partition("=")
        if not (name and separator and path):
            raise UserError(f"--judge {item}: give a name and a path, as clap=models/clap")
        judges[name] = path
    return judges
