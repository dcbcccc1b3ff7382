"""`melody play`: endless music from the loudspeaker."""

import argparse
import importlib.util
from typing import Any

from melody_jax.cli import stream
from melody_jax.errors import UserError

EPILOG = "Needs the extra `play` and a loudspeaker."
add_arguments = stream.add_music


def run(args: argparse.Namespace) -> None:
    """Plays until Ctrl-C."""
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
