"""`melody export`: the trained parts of a model folder become a bundle; with `hf` or `t5x`, folders of other libraries."""

import argparse
import json
import pathlib
from typing import Any

from melody_jax import storage
from melody_jax.errors import UserError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("export", epilog="Without hf or t5x: a bundle, for which the options above are.")
    parser.set_defaults(run=run)
    _add_folders(parser, "the bundle; an older bundle there is replaced")
    parser.add_argument("--dtype", default="float16", help="of the weights: float32, float16 or bfloat16 (float16)")
    parser.add_argument("--max_file_mib", type=float, default=0.0, help="split weights into files of this size (0: no)")
    parser.add_argument("--title", default="", help="heading of the model card")
    parser.add_argument("--data", default="", help="for the model card: what it was trained on")
    parser.add_argument(
        "--licence", action="append", default=[], metavar="TEXT", help="for the model card; may be given several times"
    )
    parser.add_argument(
        "--section", action="append", default=[], metavar="FILE", help="Markdown to append to the model card (a table)"
    )
    parser.add_argument("--size", help="take the sampling defaults of configs/sizes/SIZE/sampling.gin")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="default for sampling, as in --set steps=10"
    )
    parser.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json, where the text tower has one of its own")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="DIR[=WEIGHT]", help="make an adapter one with the parts"
    )
    formats = parser.add_subparsers(dest="format", metavar="FORMAT")
    text = "Hugging Face folders of the models that have a counterpart"
    hf = formats.add_parser("hf", help=text, description=text)
    hf.set_defaults(run=_hf)
    _add_folders(hf, "gets a folder for each model", True)
    hf.add_argument("--dtype", help="of the weights (default: that of the parts)")
    text = "T5X checkpoints of the language and the diffusion model"
    t5x = formats.add_parser("t5x", help=text, description=text)
    t5x.set_defaults(run=_t5x)
    _add_folders(t5x, "gets STAGE/checkpoint_0", True)


def _add_folders(parser: argparse.ArgumentParser, out: str, required: bool = False) -> None:
    # argparse asks for what a command requires before its subcommand's own: `run` asks itself
    parser.add_argument("--model_dir", required=required, metavar="DIR", help="where `melody train` put the stages")
    parser.add_argument("--out", required=required, metavar="DIR", help=out)


def run(args: argparse.Namespace) -> None:
    """Writes the bundle and prints its files' sizes.

    Raises:
      UserError: a stage is not finished, parts do not belong together, or a bad argument.
    """
    from melody_jax.bundle.bundle import bundle_bytes, export_stages
    from melody_jax.bundle.card import Card
    from melody_jax.cli.pieces import adapters_of

    missing = [f"--{name}" for name in ("model_dir", "out") if not getattr(args, name)]
    if missing:
        raise UserError(f"melody export: the following arguments are required: {', '.join(missing)}")
    if args.max_file_mib < 0:
        raise UserError(f"--max_file_mib must be at least 0, got {args.max_file_mib:g}")
    fields: dict[str, Any] = {"licences": tuple(args.licence), "sections": tuple(_read(path) for path in args.section)}
    fields |= {name: getattr(args, name) for name in ("title", "data") if getattr(args, name)}
    if args.tokenizer is not None:
        _read(args.tokenizer)
    bundle = export_stages(
        _folder(args),
        args.out,
        dtype=args.dtype,
        card=Card(**fields),
        sampling=_sampling(args.size, args.set),
        max_file_bytes=int(args.max_file_mib * 2**20) or None,
        tokenizer=args.tokenizer,
        adapters=adapters_of(args.adapter),
    )
    sizes = bundle_bytes(bundle.directory)
    for name, size in sizes.items():
        print(f"{size / 2**20:9.2f} MiB  {name}")
    print(f"{sum(sizes.values()) / 2**20:9.2f} MiB  {bundle.directory} ({len(bundle.parts)} parts)")


def _hf(args: argparse.Namespace) -> None:
    from melody_jax.interop import huggingface

    out = storage.local(args.out, "the folder of melody export hf")
    for line in huggingface.export_stages(_folder(args), out, args.dtype):
        print(line)


def _t5x(args: argparse.Namespace) -> None:
    from melody_jax.interop import t5x_layout

    out = storage.local(args.out, "the folder of melody export t5x")
    for line in t5x_layout.export_stages(_folder(args), out):
        print(line)


def _folder(args: argparse.Namespace) -> storage.Path:
    model_dir = storage.path(args.model_dir)
    if not model_dir.is_dir():
        raise UserError(f"--model_dir {model_dir} is not a folder")
    return model_dir


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _sampling(size: str | None, items: list[str]) -> dict[str, Any]:
    """The size's defaults and NAME=VALUE items as settings, checked."""
    from melody_jax.generate.settings import Settings, with_settings
    from melody_jax.operations.configuration import sampling_defaults

    chosen: dict[str, Any] = sampling_defaults(size) if size else {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator:
            raise UserError(f"--set {item}: write NAME=VALUE")
        try:
            chosen[name] = json.loads(value)
        except ValueError:
            chosen[name] = value
    with_settings(Settings(), chosen)
    return chosen
