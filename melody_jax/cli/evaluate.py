"""`melody evaluate`: every model of a bundle on held-out music, each figure beside its baseline."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from melody_jax.cli import arguments
from melody_jax.errors import UserError

EPILOG = "Exit code 1: a figure is missed."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    with arguments.installed("melody evaluate"):
        from melody_jax.operations.evaluation import Evaluation

    parser.add_argument("--bundle", required=True, metavar="DIR", help="what `melody export` wrote")
    arguments.add(parser, "data_dir", data="name of the audio data set; its test split counts")
    arguments.add(parser, out="report.md, report.json and, if need be, tokens")
    parser.add_argument("--model_dir", metavar="DIR", help="where the bundle was trained, to use its tokens again")
    arguments.add_fields(parser, Evaluation, ("clips", "links", "prompts", "seed"))
    judge = "also measure distances by that model's embeddings: a TorchScript file or a transformers folder"
    parser.add_argument("--judge", action="append", default=[], metavar="NAME=PATH", help=judge)


def run(args: argparse.Namespace) -> int:
    from melody_jax.evaluate.figures import table, write_report
    from melody_jax.operations.evaluation import Evaluation, evaluate

    given = arguments.fields_of(args, Evaluation)
    found = evaluate(Evaluation(**given, token_dir=args.model_dir or args.out, judges=_judges_of(args.judge)))
    print(*(entry.markdown() for entry in found.tables), table(found.figures), sep="\n\n")
    write_report(Path(args.out), found.figures, found.facts, found.tables)
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
