"""Where the chunks of a stream go that is no file: a pipe, or the loudspeaker. Imports no jax."""

import importlib.util
from collections.abc import Callable
from typing import Any, BinaryIO

from melody_jax.errors import UserError
from melody_jax.generate.sound_file import SoundFormat, samples_of

Sink = tuple[Callable[[Any], Any], Callable[[], Any]]
"""(takes a chunk of samples, is called at the end)."""


def pipe(stream: BinaryIO, rate: int) -> Sink:
    """Raw 16-bit samples at `rate`, little-endian."""
    form = SoundFormat()
    return lambda chunk: stream.write(samples_of(chunk, rate, form).astype("<i2").tobytes()), stream.flush


def loudspeaker() -> Callable[[int], Sink]:
    """What opens the loudspeaker at a sample rate.

    Raises:
      UserError: the package `sounddevice` or its library is missing; when it is called: there is no loudspeaker.
    """
    if importlib.util.find_spec("sounddevice") is None:
        raise UserError("`melody play` needs the package sounddevice: pip install 'melody_jax[play]'")
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]
    except OSError as error:  # its library is not there
        raise UserError(f"there is no loudspeaker: {error}") from None

    def opened(rate: int) -> Sink:
        try:
            device: Any = sounddevice.OutputStream(rate, channels=1, dtype="float32")
            device.start()
        except sounddevice.PortAudioError as error:
            raise UserError(f"there is no loudspeaker: {error}") from None
        return device.write, device.close

    return opened
