"""`melody export`: the trained parts of a model folder become a bundle, Hugging Face folders or T5X checkpoints."""

import argparse
import json
import pathlib
from typing import Any

from melody_jax import storage
from melody_jax.errors import UserError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "export",
        epilog="--format hf and t5x know --model_dir, --out and (hf; default: that of the parts) --dtype alone.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--model_dir", required=True, metavar="DIR", help="where `melody train` put the stages")
    parser.add_argument(
        "--format",
        default="bundle",
        choices=("bundle", "hf", "t5x"),
        help="hf: Hugging Face folders; t5x: checkpoints of lm and dpd",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the bundle; an older bundle there is replaced")
    parser.add_argument("--dtype", help="of the weights: float32, float16 or bfloat16 (a bundle's default: float16)")
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


def run(args: argparse.Namespace) -> None:
    """Writes the bundle and prints its files' sizes, or what became of each part.

    Raises:
      UserError: a stage is not finished, parts do not belong together, or a bad argument.
    """
    from melody_jax.bundle.bundle import OPTIONAL, REQUIRED, bundle_bytes, export
    from melody_jax.bundle.card import Card
    from melody_jax.cli.pieces import adapters_of

    model_dir = storage.path(args.model_dir)
    if not model_dir.is_dir():
        raise UserError(f"--model_dir {model_dir} is not a folder")
    if args.format != "bundle":
        out = storage.local(args.out, f"the folder of --format {args.format}")
        return {"hf": _export_hf, "t5x": _export_t5x}[args.format](model_dir, out, args)
    if args.max_file_mib < 0:
        raise UserError(f"--max_file_mib must be at least 0, got {args.max_file_mib:g}")
    unfinished = [name for name in REQUIRED if not _part(model_dir, name)]
    if unfinished:
        raise UserError(f"{model_dir} holds no finished {unfinished[0]} (needed: {', '.join(REQUIRED)})")
    sources = [model_dir / name for name in (*REQUIRED, *OPTIONAL) if _part(model_dir, name)]
    fields: dict[str, Any] = {"licences": tuple(args.licence), "sections": tuple(_read(path) for path in args.section)}
    fields |= {name: getattr(args, name) for name in ("title", "data") if getattr(args, name)}
    if args.tokenizer is not None:
        _read(args.tokenizer)
    bundle = export(
        sources,
        args.out,
        dtype=args.dtype or "float16",
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


def _export_hf(model_dir: storage.Path, out: pathlib.Path, args: argparse.Namespace) -> None:
    """One folder for every model that has a counterpart; says why the others have none."""
    from melody_jax.bundle.part import load_part
    from melody_jax.graph import ORDER
    from melody_jax.interop import huggingface
    from melody_jax.interop.counterparts import NoCounterpartError

    folders = _folders(model_dir, args, ORDER)
    written = 0
    for folder in folders:
        part = load_part(folder)
        counterparts = huggingface.in_part(part)
        if not counterparts:
            print(f"{part.name}: no counterpart")
        for counterpart in counterparts:
            try:
                left = huggingface.export_folder(part, counterpart, out / counterpart.name, args.dtype)
            except NoCounterpartError as error:
                print(f"{part.name}: no {counterpart.name}: {error}")
                continue
            written += 1
            rest = f"; without {', '.join(left)}" if left else ""
            print(f"{part.name}: {counterpart.name} in {out / counterpart.name}{rest}")
    if not written:
        raise UserError(f"nothing in {model_dir} has a counterpart")


def _export_t5x(model_dir: storage.Path, out: pathlib.Path, args: argparse.Namespace) -> None:
    """OUT/STAGE/checkpoint_0 for every part that T5X trains."""
    from melody_jax.bundle.part import load_part
    from melody_jax.interop import t5x_layout

    if args.dtype:
        raise UserError("--dtype is not for --format t5x: its RestoreCheckpointConfig.dtype casts")
    for folder in _folders(model_dir, args, tuple(t5x_layout.STAGES)):
        part = load_part(folder)
        print(f"{part.name}: {t5x_layout.export_part(part, out / part.name)}")


def _folders(model_dir: storage.Path, args: argparse.Namespace, names: tuple[str, ...]) -> list[storage.Path]:
    """The parts of a model folder, or the one part that it is; refuses options of bundles."""
    from melody_jax.bundle.part import INFO_FILE, locate

    bundles = ("title", "data", "licence", "section", "size", "set", "tokenizer", "adapter")
    given = [f"--{name}" for name in bundles if getattr(args, name)]
    if given or args.max_file_mib:
        raise UserError(f"{(given or ['--max_file_mib'])[0]} is not for --format {args.format}")
    alone = (locate(model_dir) / INFO_FILE).is_file()
    folders = [model_dir] if alone else [model_dir / name for name in names if _part(model_dir, name)]
    if not folders:
        raise UserError(f"{model_dir} holds no part and no finished stage of {', '.join(names)}")
    return folders


def _part(model_dir: storage.Path, name: str) -> bool:
    from melody_jax.bundle.part import INFO_FILE, locate

    return (locate(model_dir / name) / INFO_FILE).is_file()


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
