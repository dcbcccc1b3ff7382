"""`melody export stablehlo`: a bundle's sampler as programs that run with jax alone."""

import argparse

from melody_jax.cli import arguments, pieces

LEFT_OUT = ("candidates", "loudness")
"""Settings of what is not in the programs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    out, adapter = "the folder; an older one there is replaced", "make an adapter one with the bundle's weights"
    arguments.add(parser, "bundle", out=out, adapter=adapter)
    pieces.add_settings(parser, LEFT_OUT)


def run(args: argparse.Namespace) -> None:
    chosen = pieces.settings_of(args)
    bundle = arguments.bundle_of(args.bundle)

    from melody_jax.generate.exported import export_sampler
    from melody_jax.generate.settings import with_settings

    melody = pieces.loaded(bundle, args.adapter)
    out = export_sampler(melody, args.out, with_settings(melody.defaults, chosen))
    arguments.print_sizes({str(file): file.stat().st_size for file in sorted(out.iterdir())})
