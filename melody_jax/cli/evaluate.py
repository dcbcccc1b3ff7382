"""`melody evaluate`: every model of a bundle on held-out music, each figure beside its baseline."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from melody_jax.cli import arguments
from melody_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True, metavar="DIR", help="what `melody export` wrote")
    arguments.add(parser, "data_dir", data="name of the audio data set; its test split counts")
    arguments.add(parser, out="report.md, report.json and, if need be, tokens")
    parser.add_argument("--model_dir", metavar="DIR", help="where the bundle was trained, to use its tokens again")
    parser.add_argument("--clips", type=int, default=200, help="held-out clips (default 200)")
    parser.add_argument("--links", type=int, default=32, help="of these, clips taken through every link (default 32)")
    parser.add_argument("--prompts", type=int, default=60, help="held-out captions to make music for (default 60)")
    judge = "also measure distances by that model's embeddings: a TorchScript file or a transformers folder"
    parser.add_argument("--judge", action="append", default=[], metavar="NAME=PATH", help=judge)
    parser.add_argument("--seed", type=int, default=0, help="of the music (default 0)")


def run(args: argparse.Namespace) -> int:
    """Prints the tables and writes them; exit code 1 where a figure is missed."""
    with arguments.full_install("melody evaluate"):
        from melody_jax.operations import evaluation
    from melody_jax.evaluate.figures import table, write_report

    if args.clips < evaluation.FEWEST or args.prompts < 0 or args.links < 0:
        raise UserError(f"--clips must be at least {evaluation.FEWEST}, --links and --prompts at least 0")
    if args.judge and not args.prompts:
        raise UserError("--judge hears the music of --prompts, of which there is none")
    given = arguments.fields_of(args, evaluation.Evaluation) | {"judges": _judges_of(args.judge)}
    found = evaluation.evaluate(evaluation.Evaluation(**given, token_dir=args.model_dir or args.out))
    print(*(entry.markdown() for entry in found.tables), table(found.figures), sep="\n\n")
    write_report(Path(args.out), found.figures, found.facts, found.tables)
    missed = [f"{figure.stage}: {figure.name}" for figure in found.figures if not figure.reached]
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
