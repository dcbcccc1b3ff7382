"""`melody evaluate`: every model of a bundle on held-out music, each figure beside its baseline; bundles side by side."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from melody_jax import lock
from melody_jax.cli.arguments import command, fields, fields_of, option, several, shared
from melody_jax.errors import UserError
from melody_jax.evaluate.comparison import compare
from melody_jax.evaluate.figures import table, write_comparison, write_report
from melody_jax.evaluate.page import write_page
from melody_jax.operations.evaluation import Evaluation, evaluate_all


@command(
    option(
        "--bundle",
        "what `melody export` wrote; several times, to see bundles side by side: those after the first are held against it",
        action="append",
        required=True,
        metavar="DIR",
    ),
    shared("data_dir", data="name of the audio data set; its test split counts"),
    shared(
        out="index.html with music to hear, report.md, report.json, report.csv and, if need be, tokens; of several bundles the "
        "reports are in a folder each, beside comparison.md and comparison.csv"
    ),
    option("--model_dir", "where a bundle was trained, to use its tokens again", metavar="DIR"),
    fields(Evaluation, ("clips", "links", "prompts", "seed")),
    several(
        "--judge",
        "NAME=PATH",
        "also measure distances by that model's embeddings: a TorchScript file or a transformers folder",
    ),
    epilog="Exit code 1: a figure is missed.",
)
def evaluate(args: argparse.Namespace) -> int:
    given: dict[str, Any] = fields_of(args, Evaluation) | {"judges": _judges_of(args.judge)}
    del given["bundle"]  # of several
    bundles, out = _names(args.bundle), Path(args.out)
    folders = {name: out / name if len(bundles) > 1 else out for name in bundles}
    asked = {name: Evaluation(bundle=bundle, token_dir=str(folders[name]), **given) for name, bundle in bundles.items()}
    with lock.waiting(out / "lock", f"report {out}"):
        missed = _report(asked, folders, out)
    if missed:
        print(f"missed: {'; '.join(missed)}")
    return 1 if missed else 0


def _report(asked: Mapping[str, Any], folders: Mapping[str, Path], out: Path) -> list[str]:
    """Evaluates, prints and writes; returns the figures that are missed."""
    numbers, heard, rate, missed = {}, {}, 0, []
    for name, found in evaluate_all(asked):
        print(f"# {name}", *(entry.markdown() for entry in found.tables), table(found.figures), sep="\n\n")
        write_report(folders[name], found.figures, found.facts, found.tables, name)
        numbers[name], heard[name], rate = (found.figures, found.tables), found.heard, found.sample_rate
        missed += [f"{name}, {figure.stage}: {figure.name}" for figure in found.figures if figure.missed]
    side_by_side = compare(numbers) if len(asked) > 1 else None
    if side_by_side is not None:
        print(side_by_side.markdown())
        write_comparison(out, numbers, side_by_side)
    write_page(out, numbers, heard, rate, side_by_side)
    return missed


def _names(bundles: Sequence[str]) -> dict[str, str]:
    """--bundle: name -> folder; a name is as much of a folder's path, from its end, as tells it from the others'."""
    parts = [Path(bundle).resolve().parts[1:] for bundle in bundles]
    if len(set(parts)) < len(parts):
        raise UserError("--bundle names one folder twice")
    for length in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    else:
        raise UserError(f"the names of these bundles cannot be told apart: {', '.join(bundles)}")
    return dict(zip(names, bundles, strict=True))


def _judges_of(items: Sequence[str]) -> dict[str, str]:
    """--judge: name -> path."""
    judges = {}
    for item in items:
        name, separator, path = item.partition("=")
        if not (name and separator and path):
            raise UserError(f"--judge {item}: give a name and a path, as clap=models/clap")
        judges[name] = path
    return judges
