"""`melody data`: a captioned audio data set from the built-in corpus or from the user's own music."""

import argparse

from melody_jax.cli import arguments
from melody_jax.parallel.share import ALONE, Share

SOURCES = {
    "corpus": "real tunes and scores, re-orchestrated, rendered and captioned",
    "folder": "a folder of sound files with captions in .txt or .json files beside them",
    "manifest": "a jsonl manifest as AudioCraft's (path, duration, sample_rate)",
    "musiccaps": "a MusicCaps CSV with a folder of its clips",
}
PATHS = {
    "folder": ("PATH", "the folder; files in folders below it count too"),
    "manifest": ("FILE", "the manifest, .jsonl or .jsonl.gz"),
    "musiccaps": ("CSV", "the table"),
}
COMMON = ("sample_rate", "seconds", "validation", "test", "quota")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    with arguments.installed("melody data"):
        from data_pipelines.request import Request

    kinds = parser.add_subparsers(dest="kind", metavar="SOURCE", required=True)
    for kind, text in SOURCES.items():
        source = kinds.add_parser(kind, help=text)
        if kind == "corpus":
            amount = source.add_mutually_exclusive_group(required=True)
            amount.add_argument("--hours", type=float, help="hours of music, all splits together")
            amount.add_argument("--clips", type=int, help="clips, all splits together")
            arguments.add_fields(source, Request, ("seed", "font", "restricted"))
        else:
            metavar, text = PATHS[kind]
            source.add_argument("path", metavar=metavar, help=text)
            arguments.add_fields(source, Request, ("licence",))
            source.add_argument("--min_seconds", type=float, help="refuse shorter files (default 0.95 of a clip)")
        if kind == "musiccaps":
            source.add_argument("--audio", required=True, metavar="DIR", help="the clips, named by their ytid")
        source.add_argument("--name", required=True, help="what `melody train --data` will call it")
        arguments.add(source, "data_dir")
        arguments.add_fields(source, Request, COMMON)
        source.add_argument("--processes", action=arguments.Positive, help="worker processes (default: all cores)")
        text = "share the work with the other hosts of a pod, which run the same command and see the same folders"
        source.add_argument("--all_hosts", action="store_true", help=text)


def run(args: argparse.Namespace) -> None:
    with arguments.installed("melody data"):
        from data_pipelines import build, read
        from data_pipelines.request import Request, request

        asked = request(hours=getattr(args, "hours", None), **arguments.fields_of(args, Request))
        share = _joined() if args.all_hosts else ALONE
        directory = build.build(args.name, asked, args.data_dir, args.processes, share)
    if share.first:
        print(read.summary(directory))


def _joined() -> Share:
    """This host's share of the work. Chips are left to others."""
    import jax

    from melody_jax.parallel import hosts

    jax.config.update("jax_platforms", "cpu")
    hosts.join()
    return hosts.share()
