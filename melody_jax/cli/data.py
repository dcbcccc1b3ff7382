"""`melody data`: a captioned audio data set from the built-in corpus or from the user's own music."""

import argparse

from data_pipelines.request import Request, request
from melody_jax.cli.arguments import Positive, command, fields, fields_of, option, shared
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
COMMON = (
    option("--name", "what `melody train --data` will call it", required=True),
    shared("data_dir"),
    fields(Request, ("sample_rate", "seconds", "validation", "test", "quota")),
    option("--processes", "worker processes (default: all cores)", action=Positive),
    option(
        "--all_hosts",
        "share the work with the other hosts of a pod, which run the same command and see the same folders",
        action="store_true",
    ),
)


def _sources(parser: argparse.ArgumentParser) -> None:
    """A subcommand for each source."""
    kinds = parser.add_subparsers(dest="kind", metavar="SOURCE", required=True)
    for kind, text in SOURCES.items():
        source = kinds.add_parser(kind, help=text)
        if kind == "corpus":
            amount = source.add_mutually_exclusive_group(required=True)
            amount.add_argument("--hours", type=float, help="hours of music, all splits together")
            amount.add_argument("--clips", type=int, help="clips, all splits together")
            fields(Request, ("seed", "font", "restricted"))(source)
        else:
            metavar, text = PATHS[kind]
            source.add_argument("path", metavar=metavar, help=text)
            fields(Request, ("licence",))(source)
            source.add_argument("--min_seconds", type=float, help="refuse shorter files (default 0.95 of a clip)")
        if kind == "musiccaps":
            source.add_argument("--audio", required=True, metavar="DIR", help="the clips, named by their ytid")
        for add in COMMON:
            add(source)


@command(_sources)
def data(args: argparse.Namespace) -> None:
    from data_pipelines import build, read

    asked = request(hours=getattr(args, "hours", None), **fields_of(args, Request))
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
