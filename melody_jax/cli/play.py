"""`melody play`: endless music from the loudspeaker."""

import argparse
import importlib.util
from typing import Any

from melody_jax.cli import stream
from melody_jax.errors import UserError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("play", epilog="Needs the extra `play` and a loudspeaker.")
    parser.set_defaults(run=run)
    stream.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Plays until Ctrl-C.

    Raises:
      UserError: a bad argument, or there is no loudspeaker.
    """
    stream.checked(args)
    if importlib.util.find_spec("sounddevice") is None:
        raise UserError("`melody play` needs the package sounddevice: pip install 'melody_jax[play]'")
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]
    except OSError as error:  # its library is not there
        raise UserError(f"there is no loudspeaker: {error}") from None

    def sink(rate: int) -> stream.Sink:
        try:
            device: Any = sounddevice.OutputStream(rate, channels=1, dtype="float32")
            device.start()
        except sounddevice.PortAudioError as error:
            raise UserError(f"there is no loudspeaker: {error}") from None
        return device.write, device.close

    stream.play(args, sink)
