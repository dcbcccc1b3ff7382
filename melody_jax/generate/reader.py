"""Reading a piece of music that serves as a prompt."""

import os

import numpy as np

from melody_jax.errors import UserError
from melody_jax.shapes import Float


def read_music(path: str | os.PathLike, sample_rate: int) -> Float[np.ndarray, " T"]:
    """A sound file (wav, flac, ogg, mp3) as mono float32 at `sample_rate`.

    Raises:
      UserError: the file cannot be read or is empty.
    """
    import soundfile
    import soxr

    try:
        audio, rate = soundfile.read(os.fspath(path), dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"cannot read the music in {path}: {error}") from None
    mono = audio.mean(axis=1)
    if not mono.size or not np.isfinite(mono).all():
        raise UserError(f"{path} holds no usable sound")
    return soxr.resample(mono, rate, sample_rate).astype(np.float32)
