"""`melody export t5x`: T5X checkpoints of the trained stages that T5X can train."""

import argparse
from pathlib import Path

from melody_jax.cli import arguments
from melody_jax.graph import READ_TOKENS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    out = "gets STAGE/checkpoint_0; T5X casts when it reads"
    arguments.add(parser, model_dir="where `melody train` put the stages, or a part", out=out)


def run(args: argparse.Namespace) -> None:
    from melody_jax.bundle.bundle import finished_in
    from melody_jax.bundle.part import load_part
    from melody_jax.interop import t5x_layout

    for part in map(load_part, finished_in(args.model_dir, READ_TOKENS)):
        print(f"{part.name}: {t5x_layout.export_part(part, Path(args.out) / part.name)}")
