"""`melody export`: the trained parts of a model folder become a bundle."""

import argparse
import pathlib

from melody_jax.cli import arguments
from melody_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add(parser, "model_dir", out="the bundle; an older bundle there is replaced")
    parser.add_argument("--dtype", default="float16", help="of the weights: float32, float16 (default) or bfloat16")
    parser.add_argument("--max_file_mib", type=float, default=0.0, help="split weights into files of this size (0: no)")
    parser.add_argument("--title", help="heading of the model card")
    parser.add_argument("--data", help="for the model card: what it was trained on")
    several = {"action": "append", "default": []}
    text = "for the model card; may be given several times"
    parser.add_argument("--licence", **several, metavar="TEXT", help=text)
    text = "Markdown to append to the model card (a table)"
    parser.add_argument("--section", **several, metavar="FILE", help=text)
    parser.add_argument("--size", help="take the sampling defaults of configs/sizes/SIZE/sampling.gin")
    arguments.add(parser, set="default for sampling, as in --set steps=10")
    parser.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json, where the text tower has one of its own")
    arguments.add(parser, adapter="make an adapter one with the parts")


def run(args: argparse.Namespace) -> None:
    from melody_jax.bundle.bundle import OPTIONAL, REQUIRED, bundle_bytes, export, finished_in
    from melody_jax.bundle.card import Card
    from melody_jax.operations.configuration import sampling_of

    sources = finished_in(args.model_dir, (*REQUIRED, *OPTIONAL), REQUIRED)
    if args.max_file_mib < 0:
        raise UserError(f"--max_file_mib must be at least 0, got {args.max_file_mib:g}")
    if args.tokenizer is not None:
        _read(args.tokenizer)
    given = {name: value for name, value in arguments.fields_of(args, Card).items() if value}
    bundle = export(
        sources,
        args.out,
        dtype=args.dtype,
        card=Card(**given, licences=tuple(args.licence), sections=tuple(map(_read, args.section))),
        sampling=sampling_of(args.size, args.set),
        max_file_bytes=int(args.max_file_mib * 2**20) or None,
        tokenizer=args.tokenizer,
        adapters=arguments.adapters_of(args.adapter),
    )
    sizes = bundle_bytes(bundle.directory)
    arguments.print_sizes(sizes | {f"{bundle.directory} ({len(bundle.parts)} parts)": sum(sizes.values())})


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
