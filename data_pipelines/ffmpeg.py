"""Sound files read by FFmpeg's libraries (PyAV), packet by packet to the end. The samples are counted, and only then
compared with the length that the file states (`containers`). libsndfile reads what FFmpeg takes for something else. No
TensorFlow here: worker processes import it.
"""

import dataclasses
import errno
import io
import os
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import av.error
import numpy as np
import soundfile

from data_pipelines import containers

# Only these of FFmpeg's readers may look at a file: others follow links in it, or find pictures and text.
_FORMATS = (
    "wav,w64,flac,ogg,mp3,mov,mp4,m4a,aac,ac3,eac3,asf,aiff,caf,au,ape,wv,tta,dsf,matroska,webm,voc,iff,amr,epaf,avr,ircam,"
    "nistsphere"
)
# Formats whose header counts the samples; for others FFmpeg estimates the length from the bit rate or the file's size.
_COUNTING = {"flac", "aiff", "au", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "asf", "ape", "wv", "tta", "dsf", "rf64"}
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
# At once in memory: 6 s of CD sound. Frames hold a thousand samples, too few for numpy and soxr to be fast.
_BLOCK_SAMPLES = 1 << 18
# A codec's delay and padding make its stated length wrong by less than this; a cut file lacks more.
_TOLERANCE_SECONDS = 0.1
_RATES = (4_000, 768_000)
# Louder than any mix: 18 dB above full scale can only be integers stored as floating point numbers.
_INTEGER_PEAK = 8.0
# Two streams joined may have a broken frame between them, and a tag; more is a hole in the music.
_MOST_BAD_PACKETS = 3
# OSError: of Python's own file.
_UNREADABLE = (av.error.FFmpegError, OSError)


class UnusableError(Exception):
    """A sound that cannot become a clip; the message is the reason written to rejected.jsonl."""


class UnreadError(UnusableError):
    """A file that the system did not give: it may another time."""


@dataclasses.dataclass(frozen=True)
class Note:
    """Something that is odd about a file that is used all the same, and where (seconds)."""

    reason: str
    start: float


class _File(io.BufferedReader):
    """A file in which a broken header's seek to nowhere is an error in FFmpeg's way: PyAV prints exceptions from here."""

    def seek(self, target: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(target, whence)
        except (OSError, ValueError):
            return -errno.EINVAL


def opened(path: str) -> BinaryIO:
    """A sound file, open.

    Raises:
        UnusableError: it is no file, or empty.
        UnreadError: it cannot be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe could block for ever
            raise UnusableError("cannot be read: not a regular file")
        file = _File(io.FileIO(path))  # the caller closes it
        empty = not file.peek(1)
    except OSError as error:
        raise UnreadError(f"cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in a manifest's path
        raise UnusableError(f"cannot be read: {error}") from None
    if empty:
        file.close()
        raise UnusableError("empty file")
    return file


def decoded(file: BinaryIO, notes: list[Note], end: float | None) -> Iterator[tuple[np.ndarray, int]]:
    """(float32 [n, channels], rate) of a file to its end, or to `end` seconds; at the end of the file it is compared
    with its header."""
    stated = containers.stated(file)
    packets: _FFmpeg | _Sndfile = _Sndfile(file) if _is_misread(file) else _FFmpeg(file, stated, notes)
    time = 0.0
    for block, rate in _in_blocks(packets.frames()):
        if not _RATES[0] <= rate <= _RATES[1]:
            raise UnusableError(f"a sampling rate of {rate} Hz is none of music")
        peak = float(np.max(np.abs(block), initial=0.0))
        if not np.isfinite(peak):
            raise UnusableError(f"NaN or infinite samples in the {len(block) / rate:.1f} s after {time:.1f} s")
        if peak > _INTEGER_PEAK:
            raise UnusableError(
                f"samples of {peak:.5g} after {time:.1f} s, where full scale is 1: integers stored as floats?"
            )
        yield block, rate
        time += len(block) / rate
        if end is not None and time >= end:
            return
    _compare(stated, time, packets, notes)


def _compare(stated: containers.Stated, time: float, packets: "_FFmpeg | _Sndfile", notes: list[Note]) -> None:
    """Raises UnusableError where `time` seconds are less than a credible header states; notes what else is odd."""
    promised = max(stated.seconds or 0.0, packets.promised)
    if packets.bytes_per_second and promised * packets.bytes_per_second >= containers.UNKNOWN_SIZE:
        notes.append(Note("its header does not know its length", time))
        promised = 0.0
    if stated.missing:  # a damaged header's bit rate would make little of it
        promised = max(promised, time * (1 + stated.missing / max(1, stated.present)), _TOLERANCE_SECONDS + 1e-3)
    missing = promised - time
    if missing > packets.tolerance:
        raise UnusableError(f"truncated: {missing:.2f} s are missing after {time:.2f} s")
    if missing > _TOLERANCE_SECONDS:
        notes.append(Note(f"{missing:.2f} s less than its header states", time))
    if stated.cut or packets.cut:
        raise UnusableError(f"truncated: {stated.cut or packets.cut}, after {time:.2f} s")
    if stated.open_end:
        notes.append(Note(f"{stated.open_end}: perhaps it was cut here", time))
    if stated.seconds and time - stated.seconds > 1.0:
        notes.append(Note(f"its header states {stated.seconds:.2f} s only; the rest is used too", stated.seconds))


def _in_blocks(frames: Iterator[tuple[np.ndarray, int]]) -> Iterator[tuple[np.ndarray, int]]:
    """Frames of one rate and channel count put together to blocks."""
    held: list[np.ndarray] = []
    kind, samples = (0, 0), 0
    for frame, rate in frames:
        if held and ((rate, frame.shape[1]) != kind or samples >= _BLOCK_SAMPLES):
            yield np.concatenate(held), kind[0]
            held, samples = [], 0
        held.append(frame)
        kind, samples = (rate, frame.shape[1]), samples + len(frame)
    if held:
        yield np.concatenate(held), kind[0]


class _FFmpeg:
    """A file read by FFmpeg.

    Attributes:
        promised: seconds by the header's count of samples, known after the first frame; 0 without such a count.
        cut: why the file is certainly cut, known after the last frame.
    """

    def __init__(self, file: BinaryIO, stated: containers.Stated, notes: list[Note]):
        self._file, self._notes = file, notes
        self._options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        file.seek(0)
        head = file.read(4)
        file.seek(0)
        if head == b"RIFF" and stated.behind:
            self._options["ignore_length"] = "1"
        self._rf64 = head in (b"RF64", b"BW64")
        self.promised, self.bytes_per_second, self.cut = 0.0, 0.0, ""
        self.tolerance = _TOLERANCE_SECONDS
        self._time, self._behind, self._cut_page = 0.0, stated.behind, stated.cut

    def frames(self) -> Iterator[tuple[np.ndarray, int]]:
        try:
            container = av.open(self._file, metadata_errors="replace", options=self._options)
        except (*_UNREADABLE, ValueError) as error:
            if self._cut_page:
                raise UnusableError(f"truncated: {self._cut_page}") from None
            raise _unusable("cannot be read", error) from None
        with container:
            streams = [stream for stream in container.streams if stream.type == "audio"]
            if not streams:
                raise UnusableError("cannot be read: no sound in it")
            if len(streams) > 1:
                self._notes.append(Note(f"it holds {len(streams)} streams of sound, of which the first is used", 0.0))
            stream = streams[0]
            if stream.codec_context is None:
                raise UnusableError("cannot be read: its codec is unknown")
            stream.codec_context.thread_count = 1  # every core has a process already
            self._look_at(container, stream)
            yield from self._packets(container, stream)

    def _look_at(self, container: Any, stream: Any) -> None:
        name = "rf64" if self._rf64 else container.format.name
        if name == "asf":
            self.tolerance = 0.5  # its lengths hold a preroll
        if name in _COUNTING:
            if stream.duration:
                self.promised = float(stream.duration * stream.time_base)
            elif container.duration and len(container.streams) == 1:
                self.promised = container.duration / av.time_base
        if stream.codec_context.bit_rate:
            self.bytes_per_second = stream.codec_context.bit_rate / 8

    def _packets(self, container: Any, stream: Any) -> Iterator[tuple[np.ndarray, int]]:
        bad: list[float] = []  # places of packets that cannot be decoded
        last: list[float] = []  # the same for packets at the end
        gaps: list[tuple[float, float]] = []  # between the times that frames state, if they state any
        end = 0.0
        packets, packet, final = container.demux(stream), None, None
        while True:
            final = packet if packet is not None and packet.size else final
            try:
                packet = next(packets, None)
            except _UNREADABLE as error:
                raise _unusable(f"damaged after {self._time:.2f} s", error) from None
            if packet is None:
                break
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                if packet.size and not _is_tag(packet):
                    last.append(self._time)
                continue
            for frame in frames:
                bad, last = bad + last, []
                place = float(frame.pts * frame.time_base) if frame.pts is not None else end
                if place - end > _TOLERANCE_SECONDS and end > 0:
                    gaps.append((self._time, place - end))
                end = place + frame.samples / frame.sample_rate
                self._time += frame.samples / frame.sample_rate
                yield _samples(frame), frame.sample_rate
        if last and not self._time:
            raise UnusableError("cannot be read: nothing in it can be decoded")
        if len(bad) > _MOST_BAD_PACKETS:
            raise UnusableError(f"damaged: {len(bad)} packets from {bad[0]:.2f} s on cannot be decoded")
        if last:
            self.cut = "its last packet is incomplete"
        elif container.format.name == "mp3" and final is not None and containers.is_cut_frame(bytes(final)):
            self._notes.append(Note("its last frame is incomplete: perhaps it was cut here", self._time))
        if bad:
            self._notes.append(Note(f"{len(bad)} packets cannot be decoded", bad[0]))
        if gaps:
            lost = sum(length for _, length in gaps)
            self._notes.append(Note(f"{lost:.2f} s are missing from here on, in places: {len(gaps)}", gaps[0][0]))
        if self._behind and self.bytes_per_second:
            start = max(0.0, self._time - self._behind / self.bytes_per_second)
            self._notes.append(Note(f"its header states {start:.2f} s only; what lies behind is used too", start))


class _Sndfile:
    """A WAV read by libsndfile, without seeking, which it cannot do in NMS ADPCM."""

    promised, bytes_per_second, cut, tolerance = 0.0, 0.0, "", _TOLERANCE_SECONDS

    def __init__(self, file: BinaryIO):
        self._file = file
        file.seek(0)

    def frames(self) -> Iterator[tuple[np.ndarray, int]]:
        try:
            with soundfile.SoundFile(self._file) as sound:
                while len(block := sound.read(_BLOCK_SAMPLES // 4, "float32", always_2d=True)):
                    yield block, sound.samplerate
        except soundfile.LibsndfileError as error:
            raise UnusableError(f"cannot be read: {error.error_string}") from None


def _unusable(what: str, error: Exception) -> UnusableError:
    """FFmpeg's word on a file, or the system's, which PyAV hands on as it is."""
    kind = UnreadError if isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError) else UnusableError
    return kind(f"{what}: {getattr(error, 'strerror', None) or error}")


def _is_misread(file: BinaryIO) -> bool:
    """Whether FFmpeg takes a WAV's samples for others: NMS ADPCM, and whole numbers in more bytes than they need (24 bits in
    4 bytes, as recorders write)."""
    head = file.read(22)
    file.seek(0)
    layout = containers.pcm(file)
    if layout is None:
        return head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt " and head[20:22] == b"\x38\x00"
    # In a plain header any other pair is a slip: all programs go by the bits.
    return layout.width > -(-layout.bits // 8) and (layout.extensible or (layout.bits, layout.width) == (24, 4))


def _is_tag(packet: Any) -> bool:
    """Whether a packet of an MPEG or AAC stream holds a tag (or nothing) and no sound."""
    data = bytes(packet)
    return data.startswith(_TAGS) or not any(data)


def _samples(frame: Any) -> np.ndarray:
    """float32 [n, channels] of a decoded frame, full scale 1."""
    try:
        data = frame.to_ndarray()
    except ValueError:  # whole numbers of 64 bits
        raise UnusableError(f"cannot be read: samples of the form {frame.format.name}") from None
    data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128) / 128
    if data.dtype.kind == "i":
        return data.astype(np.float32) / np.float32(2 ** (8 * data.dtype.itemsize - 1))
    with np.errstate(over="ignore", invalid="ignore"):  # infinite or NaN then, and refused as that
        return data.astype(np.float32)
