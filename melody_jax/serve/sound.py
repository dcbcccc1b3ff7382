"""Takes and streams as bytes that players read. Imports no jax."""

import contextlib
import io
import pathlib
import struct
import tempfile
from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from melody_jax.generate.picture import write_picture
from melody_jax.generate.sound_file import SoundFormat, samples_of, write_sound
from melody_jax.serve.takes import Take
from melody_jax.shapes import Float

MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg", "mp3": "audio/mpeg"}


def sound_of(take: Take, form: SoundFormat) -> bytes:
    """A sound file of a take, with what made it inside."""
    with _scratch(f"x.{form.kind}") as path:
        write_sound(take.audio, take.sample_rate, path, form, take.tags)
        return path.read_bytes()


def picture_of(take: Take) -> bytes:
    """A PNG: waveform and notes."""
    with _scratch("x.png") as path:
        write_picture(take.audio, take.sample_rate, path, take.title)
        return path.read_bytes()


class Encoder:
    """Chunks of music as the bytes of one file without an end."""

    def __init__(self, kind: str, sample_rate: int):
        self._kind, self._rate = kind, sample_rate
        self._begun = False
        if kind == "mp3":
            self._buffer = io.BytesIO()
            self._file: Any = av.open(
                self._buffer, "w", format="mp3", options={"write_xing": "0", "id3v2_version": "0"}
            )
            self._track = self._file.add_stream("libmp3lame", rate=sample_rate, layout="mono", format="s16p")
            self._track.bit_rate = 128_000

    def encode(self, chunk: Float[np.ndarray, " T"]) -> bytes:
        """What a listener gets for the chunk; an encoder may hold some of it back."""
        samples = samples_of(chunk, self._rate, SoundFormat())
        if self._kind == "wav":
            head, self._begun = b"" if self._begun else _endless_header(self._rate), True
            return head + samples.astype("<i2").tobytes()
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16p", layout="mono")
        frame.sample_rate = self._rate
        return self._muxed(frame)

    def finish(self) -> bytes:
        """What was held back."""
        return self._muxed(None) if self._kind == "mp3" else b""

    def _muxed(self, frame: Any) -> bytes:
        for packet in self._track.encode(frame):
            self._file.mux(packet)
        made = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return made


def _endless_header(rate: int) -> bytes:
    """Of a mono 16-bit WAV whose length is not known."""
    form = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    return b"RIFF\xff\xff\xff\xffWAVEfmt " + form + b"data\xff\xff\xff\xff"


@contextlib.contextmanager
def _scratch(name: str) -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="melody-") as folder:
        yield pathlib.Path(folder) / name
