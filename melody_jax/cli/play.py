"""`melody play`: endless music from the loudspeaker, until Ctrl-C."""

import argparse

from melody_jax.cli import stream
from melody_jax.generate.sinks import loudspeaker

EPILOG = "Needs the extra `play` and a loudspeaker."
add_arguments = stream.add_music


def run(args: argparse.Namespace) -> None:
    stream.play(args, loudspeaker())
