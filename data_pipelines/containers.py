"""What the container of a sound file states about the sound's length, which may be wrong.

A header's length is written before the sound. The decoder reads to the end and counts. This module tells it whether
fewer samples than stated mean that the file was cut, or that its writer could not know the length (a pipe, a recorder
that was killed). No TensorFlow here: worker processes import it.
"""

import dataclasses
import struct
from collections.abc import Iterator
from typing import BinaryIO

# Programs that write to a pipe state some size of about 2 GiB or 4 GiB, each its own (SoX 0x7F000000 and 0x7FFFF000, arecord
# 0x80000000, FFmpeg 0xFFFFFFFF, ...). A size from here on says nothing about a shorter file.
UNKNOWN_SIZE = 0x7F00_0000
_MOST_CHUNKS = 10_000
_EXTENSIBLE = 0xFFFE
_TOO_LONG = 0xFFFF_FFFF
_SEARCHED = 1 << 16


@dataclasses.dataclass(frozen=True)
class Stated:
    """What a container states.

    Attributes:
        seconds: the sound's length where the container itself counts samples in a way that we read; else None.
        missing: bytes of sound that are stated but lie behind the end of the file; 0 for a size that means "unknown".
        present: bytes of sound that lie before it, where some are missing.
        behind: bytes behind the stated end of the sound that are no part of the container: its header was never brought
            up to date.
        open_end: why the end cannot be vouched for; "" where it can.
        cut: why the file is certainly cut; "" where it is not.
    """

    seconds: float | None = None
    missing: int = 0
    present: int = 0
    behind: int = 0
    open_end: str = ""
    cut: str = ""


def stated(file: BinaryIO) -> Stated:
    """What the container in `file` states; an empty `Stated` for unknown containers. Leaves the file at its
    beginning."""
    file.seek(0, 2)
    size = file.tell()
    file.seek(0)
    head = file.read(40)
    found = Stated()
    if head[:4] in _CHUNKED:
        found = _stated_by_chunks(file, size, _CHUNKED[head[:4]])
    elif head[:4] in _LARGE:
        long = int.from_bytes(head[28:36], "little") if head[12:16] == b"ds64" else 0
        found = _stated_by_chunks(file, size, _CHUNKED[b"RIFF"], long)
    elif head[:4] == b"OggS":
        found = _stated_by_pages(file, size)
    elif head[:3] == b"ID3" or head[:1] == b"\xff":
        found = Stated(seconds=_xing_seconds(file))
    file.seek(0)
    return found


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """How a container of named chunks is laid out: header bytes, name bytes, size format, alignment, names of the sound."""

    header: int
    name: int
    size: str
    align: int
    sound: tuple[bytes, ...]
    inclusive: bool = False  # the size counts name and size too


_CHUNKED = {
    b"RIFF": _Chunks(12, 4, "<I", 2, (b"data",)),
    b"RIFX": _Chunks(12, 4, ">I", 2, (b"data",)),
    b"FORM": _Chunks(12, 4, ">I", 2, (b"SSND", b"BODY")),
    b"caff": _Chunks(8, 4, ">q", 1, (b"data",)),
    b"riff": _Chunks(40, 16, "<q", 8, (b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0O\x8e\xdb\x8a",), inclusive=True),
}

_LARGE = (b"RF64", b"BW64")


@dataclasses.dataclass(frozen=True)
class Pcm:
    """How a WAV of whole numbers says that its samples lie.

    Attributes:
        bits: of a sample that mean something.
        width: bytes in which a sample lies.
        extensible: whether the header is of the kind that tells bits and width apart.
    """

    bits: int
    width: int
    extensible: bool


def pcm(file: BinaryIO) -> Pcm | None:
    """What a WAV (RIFF, RF64 or W64) says of its samples; None for anything else, and other codecs. Leaves the file at its
    beginning."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(4)
    layout = _CHUNKED[b"RIFF"] if head in (b"RIFF", *_LARGE) else _CHUNKED[head] if head == b"riff" else None
    start = next((at for name, at, _ in _walk(file, size, layout) if name[:4] == b"fmt "), 0) if layout else 0
    file.seek(start)
    content = file.read(40)
    file.seek(0)
    if not start or len(content) < 16:
        return None
    code, channels, _, _, block, bits = struct.unpack("<HHIIHH", content[:16])
    extensible = code == _EXTENSIBLE and len(content) >= 26
    if extensible:
        bits = struct.unpack("<H", content[18:20])[0] or bits
        code = struct.unpack("<H", content[24:26])[0]
    return Pcm(bits, block // channels, extensible) if code == 1 and channels else None


def _stated_by_chunks(file: BinaryIO, size: int, form: _Chunks, long: int = 0) -> Stated:
    """`long`: the sound's bytes where they are too many for their own chunk to say."""
    for name, start, length in _walk(file, size, form):
        if name not in form.sound:
            continue
        if length == _TOO_LONG and long:
            length = long
        if length <= 0 or length >= UNKNOWN_SIZE and start + length > size:
            return Stated(open_end="its header does not know its length")
        end = start + length
        if end > size:
            return Stated(missing=end - size, present=size - start)
        behind = size - _aligned(end, form.align)
        return Stated(behind=behind) if behind > 0 and not _goes_on(file, size, end, form) else Stated()
    return Stated()


def _walk(file: BinaryIO, size: int, form: _Chunks) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, stated length) of every chunk up to the end of the file."""
    place = form.header
    for _ in range(_MOST_CHUNKS):
        name, start, length = _chunk_at(file, place, form)
        if len(name) < form.name or start > size:
            return
        yield name, start, length
        if length < 0 or start + length > size:
            return
        place = _aligned(start + length, form.align)


def _chunk_at(file: BinaryIO, place: int, form: _Chunks) -> tuple[bytes, int, int]:
    file.seek(place)
    width = struct.calcsize(form.size)
    head = file.read(form.name + width)
    if len(head) < form.name + width:
        return b"", place, 0
    length = struct.unpack(form.size, head[form.name :])[0]
    return head[: form.name], place + len(head), length - len(head) if form.inclusive else length


def _goes_on(file: BinaryIO, size: int, end: int, form: _Chunks) -> bool:
    """Whether a chunk follows the sound; some writers forget to align it."""
    for place in {end, _aligned(end, form.align)}:
        name, start, length = _chunk_at(file, place, form)
        if name[:4].isascii() and name[:4].decode("ascii").isprintable() and 0 <= length <= size - start and name:
            return True
    return False


def _aligned(place: int, to: int) -> int:
    return -(-place // to) * to


def _stated_by_pages(file: BinaryIO, size: int) -> Stated:
    """Ogg (RFC 3533): the last granule position of every logical stream is its length in samples."""
    streams: dict[bytes, _OggStream] = {}
    cut = ""
    for page, head, whole in _pages(file, size):
        serial = head[14:18]
        stream = streams.get(serial)
        if stream is None or head[5] & 2:
            file.seek(page + 27 + head[26])
            stream = streams[serial + struct.pack("<q", page)] = streams[serial] = _OggStream(_ogg_rate(file.read(64)))
        if not whole:
            cut = "the last Ogg page is incomplete"
            break
        stream.add(struct.unpack("<q", head[6:14])[0], bool(head[5] & 4))
    sounds = {id(stream): stream for stream in streams.values() if stream.rate}.values()
    open_end = "" if all(stream.ended for stream in sounds) else "the Ogg stream has no end mark"
    return Stated(seconds=sum(stream.seconds for stream in sounds) or None, open_end=open_end, cut=cut)


class _OggStream:
    def __init__(self, rate: int):
        self.rate, self.first, self.last, self.ended = rate, -1, 0, False

    def add(self, granule: int, ended: bool) -> None:
        if granule > 0:
            self.last = max(self.last, granule)
            self.first = granule if self.first < 0 else self.first
        self.ended = self.ended or ended

    @property
    def seconds(self) -> float:
        # A stream recorded from its middle on starts counting anywhere.
        start = self.first if self.first > 10 * self.rate else 0
        return (self.last - start) / self.rate


def _pages(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes, bool]]:
    """(start, header, whether all of it is there) of every Ogg page; what lies between or behind pages is passed over."""
    place = 0
    while place < size:
        file.seek(place)
        head = file.read(27 + 255)
        if head[:4] != b"OggS":
            file.seek(place)
            found = file.read(_SEARCHED).find(b"OggS", 1)
            place += found if found > 0 else _SEARCHED - 3
            continue
        if len(head) < 27 or len(head) < 27 + head[26]:
            yield place, head.ljust(27, b"\0"), False
            return
        end = place + 27 + head[26] + sum(head[27 : 27 + head[26]])
        yield place, head, end <= size
        place = end


def _ogg_rate(packet: bytes) -> int:
    """Sample rate of the granule positions of the stream that begins with `packet`; 0 where it is no sound."""
    if packet[:7] == b"\x01vorbis" and len(packet) >= 16:
        return struct.unpack("<I", packet[12:16])[0]
    if packet[:8] == b"OpusHead":
        return 48_000
    if packet[:5] == b"\x7fFLAC" and len(packet) >= 31:
        return int.from_bytes(packet[27:30], "big") >> 4
    return struct.unpack("<I", packet[36:40])[0] if packet[:8] == b"Speex   " and len(packet) >= 40 else 0


_MPEG_PADDING = 3_456
_MPEG_RATES = (44_100, 48_000, 32_000)
# kbit/s by (MPEG 1, layer); index 0 is "free", 15 is forbidden.
_KILOBITS = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclasses.dataclass(frozen=True)
class _Frame:
    """The header of a frame of MPEG audio. `size`: bytes of the frame, 0 where the header does not say; `side`: bytes of
    side information of layer 3."""

    rate: int
    samples: int
    size: int
    side: int


def _frame(head: bytes) -> _Frame | None:
    """The frame that begins with these 4 bytes; None where they are no frame's."""
    if len(head) < 4 or head[0] != 255 or head[1] < 0xE0:
        return None
    version, layer, index, rate = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or index == 15 or rate == 3:
        return None
    first, hertz = version == 3, _MPEG_RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    samples = 384 if layer == 1 else 576 if layer == 3 and not first else 1152
    slot = 4 if layer == 1 else 1
    size = (
        (samples // 8 // slot * _KILOBITS[first, layer][index] * 1000 // hertz + (head[2] >> 1 & 1)) * slot
        if index
        else 0
    )
    mono = head[3] >> 6 == 3
    return _Frame(hertz, samples, size, (17 if mono else 32) if first else (9 if mono else 17))


def is_cut_frame(data: bytes) -> bool:
    """Whether `data` is a frame of MPEG audio whose end is missing."""
    frame = _frame(data[:4])
    return frame is not None and len(data) < frame.size


def _xing_seconds(file: BinaryIO) -> float | None:
    """The length that the first frame of an MPEG stream states (Xing, Info or VBRI); None without such a frame."""
    file.seek(0)
    place, head = 0, file.read(10)
    while head[:3] == b"ID3" and len(head) == 10:
        place += 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0)))
        file.seek(place)
        head = file.read(10)
    file.seek(place)
    data = file.read(_SEARCHED)
    start = next((at for at in range(len(data) - 200) if data[at] == 255 and _frame(data[at : at + 4])), None)
    frame = _frame(data[start : start + 4]) if start is not None else None
    if start is None or frame is None:
        return None

    def seconds(frames: bytes) -> float | None:
        # Decoders leave out the coder's delay and padding, which are counted too.
        samples = int.from_bytes(frames, "big") * frame.samples
        return max(samples - _MPEG_PADDING, 1) / frame.rate if samples else None

    # The checksum that a protected frame carries moves the tag by 2 bytes with some writers.
    for tag in (start + 4 + frame.side, start + 6 + frame.side):
        if data[tag : tag + 4] in (b"Xing", b"Info") and data[tag + 7] & 1:
            return seconds(data[tag + 8 : tag + 12])
    if data[start + 36 : start + 40] == b"VBRI":
        return seconds(data[start + 50 : start + 54])
    return None
