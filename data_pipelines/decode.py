"""Sound files of any rate and channel count to mono clips of one length.

No TensorFlow here: worker processes import it.
"""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

EXTENSIONS = (".wav", ".flac", ".ogg", ".mp3")
_BLOCK_SECONDS = 10
# A codec's delay and padding make its stated length wrong by less than this; a cut file lacks more.
_LENGTH_TOLERANCE_SECONDS = 0.1


class UnusableError(Exception):
    """A sound that cannot become a clip; the message is the reason written to rejected.jsonl."""


@dataclasses.dataclass(frozen=True)
class ClipFormat:
    """What every clip of a data set is like.

    Attributes:
        sample_rate: Hz.
        seconds: length of a clip.
        min_seconds: a shorter file is refused; a shorter remainder of a long file is dropped; what lies between this
            and `seconds` is filled up with silence at its end.
        silence_db: a clip whose loudest 10 ms lie below this level (dB relative to full scale) is silent.
    """

    sample_rate: int = 24_000
    seconds: float = 10.0
    min_seconds: float = 9.5
    silence_db: float = -60.0

    @property
    def samples(self) -> int:
        """T, samples of a clip."""
        return round(self.seconds * self.sample_rate)

    @property
    def min_samples(self) -> int:
        return round(self.min_seconds * self.sample_rate)


def clips_of(path: str, form: ClipFormat, start: float = 0.0, end: float | None = None) -> Iterator[np.ndarray]:
    """The consecutive clips of a file, or of its part from `start` to `end` seconds.

    A file is read in blocks: an hour of music never stands in memory at once. So a fault late in a file shows after
    its first clips have been given out, and the caller must take those back.

    Yields:
        float32 [T] in [-1, 1]; channels are averaged, the rate is converted by soxr.

    Raises:
        UnusableError: not a sound file, truncated, NaN or infinite samples, or shorter than `min_seconds`.
    """
    _check_container(path)
    try:
        with soundfile.SoundFile(path) as file:
            clip_count, remainder = 0, np.zeros(0, np.float32)
            for block in _resampled(file, form.sample_rate, start, end):
                remainder = np.concatenate([remainder, block])
                while len(remainder) >= form.samples:
                    yield np.clip(remainder[: form.samples], -1.0, 1.0)
                    clip_count, remainder = clip_count + 1, remainder[form.samples :]
    except soundfile.LibsndfileError as error:
        raise UnusableError(f"cannot be read: {error.error_string}") from None
    if len(remainder) >= form.min_samples and len(remainder) > 0:
        yield np.clip(np.pad(remainder, (0, form.samples - len(remainder))), -1.0, 1.0)
    elif clip_count == 0:
        length = len(remainder) / form.sample_rate
        raise UnusableError(f"too short: {length:.2f} s where at least {form.min_seconds:g} s are needed")


def is_silent(audio: np.ndarray, form: ClipFormat) -> bool:
    """Whether no 10 ms of `audio` [T] reach `form.silence_db`."""
    window = max(1, form.sample_rate // 100)
    windows = audio[: len(audio) // window * window].reshape(-1, window)
    loudest = float(np.sqrt(np.max(np.mean(np.square(windows), axis=1), initial=0.0)))
    return loudest < 10 ** (form.silence_db / 20)


def _resampled(file: soundfile.SoundFile, rate: int, start: float, end: float | None) -> Iterator[np.ndarray]:
    """Mono blocks of `file` at `rate`, checked for NaN and for missing samples at the end."""
    first = round(start * file.samplerate)
    last = file.frames if end is None else min(file.frames, round(end * file.samplerate))
    if first >= last:
        raise UnusableError(f"too short: it ends before {start:g} s" if start else "too short: no samples")
    file.seek(first)
    resampler = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32", quality="HQ")
    position = first
    while position < last:
        block = file.read(min(_BLOCK_SECONDS * file.samplerate, last - position), dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        if not np.isfinite(block).all():
            raise UnusableError(f"NaN or infinite samples in the 10 s after {position / file.samplerate:g} s")
        position += len(block)
        yield resampler.resample_chunk(block.mean(axis=1), last=position >= last)
    missing = (last - position) / file.samplerate
    if missing > _LENGTH_TOLERANCE_SECONDS:
        raise UnusableError(f"truncated: {missing:.2f} s are missing at its end")
    if position < last:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _check_container(path: str) -> None:
    """Refuses files that libsndfile would silently read short: it trusts the bytes there are, not the header."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(12)
            file.seek(max(0, size - 65_536))
            tail = file.read()
    except OSError as error:
        raise UnusableError(f"cannot be read: {error.strerror}") from None
    if size == 0:
        raise UnusableError("empty file")
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        stated = int.from_bytes(head[4:8], "little")
        # 0 and 2^32 - 1 are what a program writes that streams and cannot know the length.
        if stated not in (0, 0xFFFFFFFF) and stated + 8 > size + 1:
            raise UnusableError(f"truncated: {stated + 8 - size} bytes are missing at its end")
    if head[:4] == b"OggS":
        page = tail.rfind(b"OggS")
        # RFC 3533: the last page of a stream carries the flag 4, and its segment table tells its length.
        if page < 0 or page + 27 > len(tail) or not tail[page + 5] & 4 or page + _page_bytes(tail[page:]) > len(tail):
            raise UnusableError("truncated: the end of the Ogg stream is missing")


def _page_bytes(page: bytes) -> int:
    segments = page[26]
    return 27 + segments + sum(page[27 : 27 + segments])
