"""`melody export stablehlo`: a bundle's sampler as programs that run with jax alone."""

import argparse

from melody_jax.cli import arguments, pieces

LEFT_OUT = ("candidates", "loudness")
"""Settings of what is not in the programs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = {
        "out": "the folder; an older one there is replaced",
        "adapter": "make an adapter one with the bundle's weights",
    }
    arguments.add(parser, "bundle", **words)
    pieces.add_settings(parser, LEFT_OUT)


def run(args: argparse.Namespace) -> None:
    """Writes the folder and prints its files' sizes."""
    chosen = pieces.settings_of(args)
    bundle = arguments.bundle_of(args.bundle)

    from melody_jax.generate.exported import export_sampler
    from melody_jax.generate.settings import with_settings

    melody = pieces.loaded(bundle, args.adapter)
    out = export_sampler(melody, args.out, with_settings(melody.defaults, chosen))
    for file in sorted(out.iterdir()):
        print(f"{file.stat().st_size / 2**20:9.2f} MiB  {file}")
