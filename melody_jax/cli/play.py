"""`melody play`: endless music from the loudspeaker."""

import argparse

from melody_jax.cli import stream
from melody_jax.generate.sinks import loudspeaker

EPILOG = "Needs the extra `play` and a loudspeaker."
add_arguments = stream.add_music


def run(args: argparse.Namespace) -> None:
    """Plays until Ctrl-C."""
    stream.checked(args)
    stream.play(args, loudspeaker())
