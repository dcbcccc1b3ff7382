"""A stream handed to what takes its chunks: a file (`sound_file.stream_to`), a pipe, or the loudspeaker. Imports no jax."""

import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, BinaryIO

from melody_jax.errors import UserError, lacking
from melody_jax.generate.sound_file import SoundFormat, samples_of

if TYPE_CHECKING:
    from melody_jax.generate.stream import Stream

Sink = tuple[Callable[[Any], Any], Callable[[], Any]]
"""(takes a chunk of samples, is called at the end)."""


def play_to(sink: Sink, stream: "Stream", seconds: float, prompts: Iterable[str]) -> None:
    """Hands over the next `seconds` of a stream; each of the prompts that come meanwhile is its next one."""
    take, end = sink
    threading.Thread(target=_follow, args=(stream, prompts), daemon=True).start()
    try:
        for chunk in stream.until(seconds):
            take(chunk)
    finally:
        end()


def _follow(stream: "Stream", prompts: Iterable[str]) -> None:
    for prompt in prompts:
        try:
            stream.change(prompt.strip())
        except UserError as error:
            warnings.warn(str(error), stacklevel=1)


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
        raise lacking("play", "melody play")
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
