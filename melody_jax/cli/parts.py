"""`melody export`, `melody import`: trained parts become a bundle, and other programs' files; theirs become parts."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from melody_jax.cli import music
from melody_jax.cli.arguments import adapters_of, bundle_of, command, option, several, shared
from melody_jax.errors import UserError
from melody_jax.files import read_text
from melody_jax.graph import READ_TOKENS

BINDINGS = "config.gin"
STAGES_OR_PART = "where `melody train` put the stages, or a part"
NOT_EXPORTED = ("candidates", "loudness")
"""Settings of what is not in the programs that run with jax alone."""


@command(
    shared("model_dir", out="the bundle; an older bundle there is replaced"),
    option("--dtype", "of the weights: float32, float16 (default) or bfloat16", default="float16"),
    option("--max_file_mib", "split weights into files of this size (0: no)", type=float, default=0.0),
    option("--title", "heading of the model card"),
    option("--trained_on", "for the model card: the music that it learnt from", metavar="TEXT"),
    several("--licence", "TEXT", "for the model card; may be given several times"),
    several("--section", "FILE", "Markdown to append to the model card (a table)"),
    option("--size", "take the sampling defaults of configs/sizes/SIZE/sampling.gin"),
    several("--sampling", "NAME=VALUE", "default for sampling, as in --sampling steps=10"),
    option("--tokenizer", "a tokenizer.json, where the text tower has one of its own", metavar="FILE"),
    shared(adapter="make an adapter one with the parts"),
)
def export(args: argparse.Namespace) -> None:
    from melody_jax.bundle import bundle as bundles
    from melody_jax.bundle.card import Card
    from melody_jax.operations.configuration import sampling_of

    sources = bundles.finished_in(args.model_dir, (*bundles.REQUIRED, *bundles.OPTIONAL), bundles.REQUIRED)
    if args.max_file_mib < 0:
        raise UserError(f"--max_file_mib must be at least 0, got {args.max_file_mib:g}")
    if args.tokenizer is not None:
        read_text(args.tokenizer)
    bundle = bundles.export(
        sources,
        args.out,
        dtype=args.dtype,
        card=Card(
            title=args.title or Card.title,
            data=args.trained_on or Card.data,
            licences=tuple(args.licence),
            sections=tuple(map(read_text, args.section)),
        ),
        sampling=sampling_of(args.size, args.sampling),
        max_file_bytes=int(args.max_file_mib * 2**20) or None,
        tokenizer=args.tokenizer,
        adapters=adapters_of(args.adapter),
    )
    sizes = bundles.bundle_bytes(bundle.directory)
    _print_sizes(sizes | {f"{bundle.directory} ({len(bundle.parts)} parts)": sum(sizes.values())})


def _print_sizes(files: Mapping[str, int]) -> None:
    """A line for each file: its size, and its name."""
    for name, size in files.items():
        print(f"{size / 2**20:9.2f} MiB  {name}")


@command(
    shared(model_dir=STAGES_OR_PART, out="gets a folder for each model"),
    option("--dtype", "of the weights: float32, float16 or bfloat16 (default: that of the parts)"),
)
def export_hf(args: argparse.Namespace) -> None:
    from melody_jax.interop import huggingface

    for said in huggingface.export_parts(args.model_dir, args.out, args.dtype):
        print(said)


@command(shared(model_dir=STAGES_OR_PART, out="gets STAGE/checkpoint_0; T5X casts when it reads"))
def export_t5x(args: argparse.Namespace) -> None:
    from melody_jax.bundle.bundle import finished_in
    from melody_jax.bundle.part import load_part
    from melody_jax.interop import t5x_layout

    for part in map(load_part, finished_in(args.model_dir, READ_TOKENS)):
        print(f"{part.name}: {t5x_layout.export_part(part, Path(args.out) / part.name)}")


@command(
    shared(
        "bundle",
        out="the folder; an older one there is replaced",
        adapter="make an adapter one with the bundle's weights",
    ),
    music.settings(*NOT_EXPORTED),
)
def export_stablehlo(args: argparse.Namespace) -> None:
    chosen = music.settings_of(args)
    bundle = bundle_of(args.bundle)

    from melody_jax.generate.exported import export_sampler
    from melody_jax.generate.settings import with_settings

    melody = music.loaded(bundle, args.adapter)
    out = export_sampler(melody, args.out, with_settings(melody.defaults, chosen))
    _print_sizes({str(file): file.stat().st_size for file in sorted(out.iterdir())})


@command(
    option("path", "a folder with config.json and model.safetensors", metavar="PATH"),
    option("--model", "llama, bert, ast, wav2vec2-conformer or hifigan", required=True),
    shared(out="gets the part, and config.gin with its shape"),
    several("--drop", "PATTERN", "leave out tensors of this name (regular expression)"),
)
def import_hf(args: argparse.Namespace) -> None:
    from melody_jax.interop import huggingface
    from melody_jax.train.end import PART

    out = Path(args.out)
    part, bindings = huggingface.import_folder(args.path, out / PART, args.model, args.drop)
    (out / BINDINGS).write_text(bindings)
    print(f"{part.name}: {part.parameters:,} numbers of {args.path} in {out / PART}")
    with_shape = f"--gin_file {out / BINDINGS} gives a model of this shape"
    print(f"melody train ... --init_from {out} starts from them; {with_shape}")


@command(
    option("path", ".../checkpoint_N", metavar="PATH"),
    option("--model", "the stage", required=True, choices=READ_TOKENS),
    shared(
        out="gets the part",
        size="a folder of configs/sizes: what the run was configured with",
        model_dir="where the parts are that made the tokens",
        set="a gin binding of the run",
        gin_file="a further gin file of the run",
    ),
)
def import_t5x(args: argparse.Namespace) -> None:
    from melody_jax.cli.train import bindings_of
    from melody_jax.interop import t5x_layout
    from melody_jax.operations.training import Request
    from melody_jax.train.end import PART

    bound = {"gin_files": args.gin_file, "bindings": bindings_of(args)}
    request = Request(args.model, args.size, "", args.model_dir, **bound)
    stage: Any = request.compose_one().stage
    out = Path(args.out) / PART
    part = t5x_layout.import_checkpoint(args.path, dataclasses.replace(stage, parents_dir=args.model_dir), out)
    print(f"{part.name}: {part.parameters:,} numbers of {args.path} in {out}")
