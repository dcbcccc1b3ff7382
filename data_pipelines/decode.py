"""Sound files of any kind, rate and channel count to mono clips of one length. No TensorFlow here: worker processes import it."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import soxr

from data_pipelines.ffmpeg import Note, UnusableError, decoded, opened

EXTENSIONS = (
    ".wav", ".wave", ".w64", ".rf64", ".bwf", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".mp1", ".mpga", ".m4a",
    ".m4b", ".m4r", ".aac", ".adts", ".ac3", ".eac3", ".wma", ".asf", ".aif", ".aiff", ".aifc", ".caf", ".au", ".snd", ".ape",
    ".wv", ".tta", ".dsf", ".mka", ".weba", ".webm", ".voc", ".8svx", ".iff", ".amr", ".gsm", ".paf", ".sd2", ".avr", ".ircam",
    ".nist", ".sph", ".mp4", ".m4p", ".m4v", ".mov", ".mkv", ".3gp", ".3ga",
    # Sound, which no reader of ours knows: each is listed as that.
    ".mpc", ".mpp", ".mp+", ".shn", ".ofr", ".tak", ".dff", ".dts", ".mlp", ".ra", ".oma", ".aa", ".aax", ".qoa", ".wve",
)  # fmt: skip
_MOST_CLIPPED = 0.05


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


class Clips:
    """The consecutive clips of a file, or of its part from `start` to `end` seconds: see `clips_of`.

    Attributes:
        notes: what was odd; complete after the last clip.
        position: bytes of the file that have been read.
    """

    def __init__(self, path: str, form: ClipFormat, start: float, end: float | None):
        self._path, self._form, self._start, self._end = path, form, start, end
        self.notes: list[Note] = []
        self.position = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        form, count, rest = self._form, 0, np.zeros(0, np.float32)
        for block in self.blocks():
            rest = np.concatenate([rest, block])
            while len(rest) >= form.samples:
                yield rest[: form.samples].copy()
                count, rest = count + 1, rest[form.samples :]
        if len(rest) >= form.min_samples and len(rest) > 0:
            yield np.pad(rest, (0, form.samples - len(rest)))
        elif count == 0:
            length = len(rest) / form.sample_rate
            raise UnusableError(f"too short: {length:.2f} s where at least {form.min_seconds:g} s are needed")

    def blocks(self) -> Iterator[np.ndarray]:
        """All of it at the clips' rate, float32 [n] block by block."""
        with opened(self._path) as file:
            for block in self._resampled(decoded(file, self.notes, self._end)):
                self.position = max(self.position, file.tell())
                yield block

    def _resampled(self, blocks: Iterator[tuple[np.ndarray, int]]) -> Iterator[np.ndarray]:
        """Mono blocks float32 [n] at the clips' rate, of the wanted part. The rate may change on the way."""
        resampler, of_rate, time, taken = None, 0, 0.0, False
        for block, rate in blocks:
            if rate != of_rate:
                if resampler is not None:
                    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
                resampler, of_rate = soxr.ResampleStream(rate, self._form.sample_rate, 1, "float32", "HQ"), rate
            first = round((self._start - time) * rate)
            last = len(block) if self._end is None else round((self._end - time) * rate)
            time += len(block) / rate
            mono = _mono(block[max(0, first) : max(0, last)])
            if len(mono) and resampler is not None:
                taken = True
                yield resampler.resample_chunk(mono)
            if last < len(block):
                break
        if not taken:
            raise UnusableError(
                f"too short: it ends before {self._start:g} s" if self._start else "too short: no samples"
            )
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def clips_of(path: str, form: ClipFormat, start: float = 0.0, end: float | None = None) -> Clips:
    """The consecutive clips of a file, or of its part from `start` to `end` seconds.

    A file is read in blocks, so that an hour of music is never in memory at once. A fault late in a file is therefore
    found after its first clips have been given out, and the caller must discard them.

    Yields:
        float32 [T], full scale 1, not clipped; channels are averaged, the rate is converted by soxr.

    Raises:
        UnusableError: not a sound file, truncated, damaged, NaN or infinite samples, samples or a rate that no music has,
            or shorter than `min_seconds`.
    """
    return Clips(path, form, start, end)


def whole_of(path: str, sample_rate: int, longest: float = math.inf, notes: list[Note] | None = None) -> np.ndarray:
    """All of a file, float32 [T] at `sample_rate`, full scale 1, not clipped; channels are averaged.

    Args:
        notes: gets what is odd about the file.

    Raises:
        UnusableError: as `clips_of`; it is longer than `longest` seconds, which is found before more of it is read;
            silent, or too much of it is beyond full scale.
    """
    form, blocks, samples = ClipFormat(sample_rate), [], 0
    clips = Clips(path, form, 0.0, None)
    for block in clips.blocks():
        blocks.append(block)
        samples += len(block)
        if samples > longest * sample_rate:
            raise UnusableError(f"too long: more than {longest:g} s")
    audio = np.concatenate(blocks)
    if notes is not None:
        notes += clips.notes
    if reason := fault(audio, form) if len(audio) else "too short: no samples":
        raise UnusableError(reason)
    return audio


def length_of(path: str, enough: float = float("inf")) -> float:
    """Seconds of sound in a file, counted to its end or until there are `enough`.

    Raises:
        UnusableError: as `clips_of`.
    """
    time = 0.0
    with opened(path) as file:
        for block, rate in decoded(file, [], None):
            time += len(block) / rate
            if time >= enough:
                break
    return time


def fault(audio: np.ndarray, form: ClipFormat) -> str | None:
    """Why `audio` [T] should not become a clip: it is silent, or too much of it is beyond full scale and would be
    clipped."""
    if is_silent(audio, form):
        return "silent"
    share = float(np.mean(np.abs(audio) > 1.0))
    return f"{share:.0%} of its samples lie beyond full scale" if share > _MOST_CLIPPED else None


def is_silent(audio: np.ndarray, form: ClipFormat) -> bool:
    """Whether no 10 ms of `audio` [T] reach `form.silence_db`; a constant offset is no sound."""
    window = max(1, form.sample_rate // 100)
    windows = audio[: len(audio) // window * window].reshape(-1, window)
    loudest = float(np.sqrt(np.max(np.var(windows, axis=1), initial=0.0)))
    return loudest < 10 ** (form.silence_db / 20)


def _mono(block: np.ndarray) -> np.ndarray:
    """float32 [n]: the mean of the channels of [n, channels], ten times faster than numpy's over so short an axis."""
    channels = block.shape[1]
    return block[:, 0] if channels == 1 else block @ np.full(channels, 1 / channels, np.float32)
