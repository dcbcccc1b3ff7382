"""`melody export hf`: Hugging Face folders of the trained parts that have a counterpart there."""

import argparse
from pathlib import Path

from melody_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_dir", required=True, metavar="DIR", help="where `melody train` put the stages, or a part"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="gets a folder for each model")
    parser.add_argument("--dtype", help="of the weights: float32, float16 or bfloat16 (default: that of the parts)")


def run(args: argparse.Namespace) -> None:
    """Writes the folders and prints what became of each part."""
    from melody_jax.bundle.bundle import finished_in
    from melody_jax.bundle.part import load_part
    from melody_jax.graph import ORDER
    from melody_jax.interop import huggingface
    from melody_jax.interop.counterparts import NoCounterpartError

    written = 0
    for part in map(load_part, finished_in(args.model_dir, ORDER)):
        counterparts = huggingface.in_part(part)
        if not counterparts:
            print(f"{part.name}: no counterpart")
        for counterpart in counterparts:
            out = Path(args.out) / counterpart.name
            try:
                left = huggingface.export_folder(part, counterpart, out, args.dtype)
            except NoCounterpartError as error:
                print(f"{part.name}: no {counterpart.name}: {error}")
                continue
            written += 1
            print(f"{part.name}: {counterpart.name} in {out}" + (f"; without {', '.join(left)}" if left else ""))
    if not written:
        raise UserError(f"nothing in {args.model_dir} has a counterpart")
