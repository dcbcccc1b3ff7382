"""`melody data`: a captioned audio data set from the built-in corpus or from the user's own music."""

import argparse
import dataclasses
import os

from melody_jax.cli.arguments import check_positive
from melody_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="SOURCE", required=True)

    corpus = kinds.add_parser("corpus", help="real tunes and scores, re-orchestrated, rendered and captioned")
    amount = corpus.add_mutually_exclusive_group(required=True)
    amount.add_argument("--hours", type=float, help="hours of music, all splits together")
    amount.add_argument("--clips", type=int, help="clips, all splits together")
    corpus.add_argument("--seed", type=int, default=0, help="the same seed gives the same data set (default 0)")
    corpus.add_argument("--font", default="", help="an SF2 or SF3 sound font (default: TimGM6mb from pretty_midi)")
    corpus.add_argument(
        "--restricted", action="store_true", help="collections with non-commercial or unclear terms too"
    )

    folder = kinds.add_parser("folder", help="a folder of sound files with captions in .txt or .json files beside them")
    folder.add_argument("path", metavar="PATH", help="the folder; files in folders below it count too")
    manifest = kinds.add_parser("manifest", help="a jsonl manifest as AudioCraft's (path, duration, sample_rate)")
    manifest.add_argument("path", metavar="FILE", help="the manifest, .jsonl or .jsonl.gz")
    musiccaps = kinds.add_parser("musiccaps", help="a MusicCaps CSV with a folder of its clips")
    musiccaps.add_argument("path", metavar="CSV", help="the table")
    musiccaps.add_argument("--audio", required=True, metavar="DIR", help="the clips, named by their ytid")
    for kind in (folder, manifest, musiccaps):
        kind.add_argument("--licence", default="", help="licence of files that state none themselves")
        kind.add_argument("--min_seconds", type=float, help="refuse shorter files (default 0.95 of a clip)")
    for kind in (corpus, folder, manifest, musiccaps):
        _add_common(kind)


def run(args: argparse.Namespace) -> None:
    """Builds the data set and says where it is."""
    if not args.name.replace("-", "_").isidentifier():
        raise UserError(f"--name {args.name!r}: use letters, digits and _ only, not beginning with a digit")
    try:
        from data_pipelines import build, read

        directory = build.build(args.name, _request(args), args.data_dir, args.processes)
    except ModuleNotFoundError as error:
        raise UserError(f"melody data needs more than the base install ({error}); `make install` installs it") from None
    print(read.summary(directory))


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="what `melody train --data` will call it")
    parser.add_argument("--data_dir", default="./data", help="where data sets lie (default ./data)")
    parser.add_argument("--sample_rate", type=int, default=24_000, help="Hz (default 24000)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip (default 10)")
    parser.add_argument("--validation", type=float, default=0.05, help="share of the tunes or files (default 0.05)")
    parser.add_argument("--test", type=float, default=0.05, help="share of the tunes or files (default 0.05)")
    parser.add_argument("--quota", type=float, default=0.05, help="fail above this share of rejects (default 0.05)")
    parser.add_argument("--processes", type=int, help="worker processes (default: all cores)")


def _request(args: argparse.Namespace):
    from data_pipelines.request import Request

    check_positive(args, "processes")
    names = [field.name for field in dataclasses.fields(Request)]
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    given |= {name: os.path.abspath(given[name]) for name in ("path", "audio", "font") if given.get(name)}
    if args.kind != "corpus":
        return Request(**{"min_seconds": 0.95 * args.seconds} | given)
    if args.hours is not None:
        if args.hours * 3600 < args.seconds:
            raise UserError(f"--hours {args.hours:g} is less than one clip of {args.seconds:g} s")
        given["clips"] = round(args.hours * 3600 / args.seconds)
    return Request(**given, min_seconds=args.seconds)
