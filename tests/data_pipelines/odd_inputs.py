"""Broken and odd sound files of every kind, each with what must become of it. `test_odd_inputs` builds a data set of them."""

import dataclasses
import json
import pathlib
import struct
import tempfile
import zipfile
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from typing import Any

import av
import numpy as np
import soundfile

from tests.data_pipelines.tones import RATE, tone

SECONDS = 3.2  # three clips of 1 s
NOTHING = "nothing"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One file.

    Attributes:
        make: the bytes of it, from a tone float64 [n] of a pitch of its own at `RATE`.
        clips: how many of it are used.
        reason: regular expression of its line in rejected.jsonl; "" where it has none.
        caption: of the sidecar: {suffix: bytes}.
    """

    make: Callable[[np.ndarray], bytes]
    clips: int = 3
    reason: str = ""
    sidecars: dict[str, bytes] = dataclasses.field(default_factory=lambda: {".txt": b"a tone"})


def sound(audio: np.ndarray, form: str = "WAV", subtype: str | None = None, rate: int = RATE) -> bytes:
    """A file written by libsndfile."""
    file = BytesIO()
    soundfile.write(file, audio, rate, format=form, subtype=subtype)
    return file.getvalue()


def encoded(
    audio: np.ndarray,
    form: str,
    codec: str,
    rate: int = RATE,
    streams: int = 1,
    picture: str = "",
    chapters: int = 0,
    **options: Any,
) -> bytes:
    """A file written by FFmpeg; all streams of sound but the first are empty.

    Args:
        picture: the codec of a moving picture beside the sound.
        chapters: how many, of a second each.
    """
    with (
        tempfile.NamedTemporaryFile() as file,  # some containers are read again when they are finished
        av.open(file.name, "w", format=form, options=options) as container,
    ):
        stream, *others = [container.add_stream(codec, rate=rate, layout="mono") for _ in range(streams)]
        stream.bit_rate = 64_000 if codec != "libopencore_amrnb" else 12_200
        if chapters:
            container.set_chapters([_chapter(number) for number in range(chapters)])
        if picture:
            others.append(_picture(container, picture))
        for start in range(0, len(audio), 1_024):
            block = audio[None, start : start + 1_024].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(stream.encode(frame))
        for ended in (stream, *others):
            container.mux(ended.encode(None))
        container.close()
        return pathlib.Path(file.name).read_bytes()


def _picture(container: Any, codec: str) -> Any:
    """A stream that holds three seconds of a grey picture."""
    stream = container.add_stream(codec, rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    for number in range(75):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 25)
        container.mux(stream.encode(frame))
    return stream


def _chapter(number: int) -> dict[str, Any]:
    span = {"start": 1_000 * number, "end": 1_000 * (number + 1), "time_base": Fraction(1, 1_000)}
    return {"id": number, **span, "metadata": {"title": f"chapter {number}"}}


def silent_film(audio: np.ndarray) -> bytes:
    """An MP4 with a picture and no sound."""
    with tempfile.NamedTemporaryFile() as file, av.open(file.name, "w", format="mp4") as container:
        container.mux(_picture(container, "mpeg4").encode(None))
        container.close()
        return pathlib.Path(file.name).read_bytes()


def extensible(audio: np.ndarray, bits: int, head: bytes = b"RIFF") -> bytes:
    """A WAV whose samples of `bits` bits stand in 4 bytes each."""
    samples = ((audio * 2**31).astype(np.int64) >> 32 - bits << 32 - bits).astype("<i4").tobytes()
    guid = b"\1\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, 4 * RATE, 4, 32, 22, bits, 0) + guid
    size, sizes = len(samples), b""
    if head == b"RF64":
        sizes, size = b"ds64" + struct.pack("<IQQQI", 28, size + 100, size, size // 4, 0), 0xFFFF_FFFF
    chunks = (
        b"WAVE" + sizes + b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + samples
    )
    return head + struct.pack("<I", 0xFFFF_FFFF if sizes else len(chunks)) + chunks


def with_cover(data: bytes, size: int) -> bytes:
    """A sound behind an ID3 tag with a picture of `size` bytes."""

    def length(value: int) -> bytes:
        return bytes(value >> shift & 127 for shift in (21, 14, 7, 0))

    picture = b"\0image/jpeg\0\3\0\xff\xd8\xff" + np.random.default_rng(2).bytes(size)
    tag = b"APIC" + length(len(picture)) + b"\0\0" + picture
    return b"ID3\4\0\0" + length(len(tag)) + tag + data


def one_bit(audio: np.ndarray) -> bytes:
    """A DSF: the sign of the tone and noise, 353 times as often as the tone's samples."""
    times = 2_822_400 // RATE
    loud = np.repeat(audio, times)
    bits = loud > 2 * np.random.default_rng(3).random(len(loud)) - 1
    data = np.packbits(bits, bitorder="little").tobytes()
    data += b"\x69" * (-len(data) % 4_096)
    form = b"fmt " + struct.pack("<QIIIIIIQII", 52, 1, 0, 1, 1, 2_822_400, 1, len(bits), 4_096, 0)
    body = form + b"data" + struct.pack("<Q", 12 + len(data)) + data
    return b"DSD " + struct.pack("<QQQ", 28, 28 + len(body), 0) + body


def changed(data: bytes, at: int, to: bytes) -> bytes:
    return data[:at] + to + data[at + len(to) :]


def hit(data: bytes, size: int) -> bytes:
    """A file with `size` bytes of noise in its middle."""
    return changed(data, len(data) // 2, np.random.default_rng(4).bytes(size))


def in_a_zip(data: bytes) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.wav", data)
    return file.getvalue()


def resized(data: bytes, size: int) -> bytes:
    """A WAV whose header states `size` bytes of sound."""
    return data[:4] + struct.pack("<I", min(size + 36, 2**32 - 1)) + data[8:40] + struct.pack("<I", size) + data[44:]


def cut(data: bytes, share: float = 0.6) -> bytes:
    return data[: int(len(data) * share)]


def ogg_without_end(data: bytes) -> bytes:
    """Its last page again without the flag, with a right checksum (polynomial 04c11db7, no reflection)."""
    start = data.rfind(b"OggS")
    page = bytearray(data[start:])
    page[5] &= ~4
    page[22:26] = bytes(4)
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ 0x04C11DB7 if checksum >> 31 else checksum << 1) & 0xFFFFFFFF
    page[22:26] = struct.pack("<I", checksum)
    return data[:start] + bytes(page)


def flac_of_unknown_length(data: bytes) -> bytes:
    return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]


def with_value(audio: np.ndarray, value: float) -> np.ndarray:
    audio = audio.copy()
    audio[20_000] = value
    return audio


def far_caf(data: bytes) -> bytes:
    """A CAF whose chunk behind the description ends 7e18 bytes later, where no file can be read."""
    return data[:56] + b"\x65" + data[57:]


def json_sidecar(**tags: Any) -> dict[str, bytes]:
    return {".json": json.dumps(tags).encode()}


def _as(form: str, subtype: str | None = None) -> Callable[[np.ndarray], bytes]:
    return lambda audio: sound(audio, form, subtype)


def _by(form: str, codec: str, rate: int = RATE, **options: Any) -> Callable[[np.ndarray], bytes]:
    return lambda audio: encoded(
        audio if rate == RATE else np.repeat(audio, rate // RATE), form, codec, rate, **options
    )


def _pipe(size: int) -> Kind:
    return Kind(lambda audio: resized(sound(audio), size), reason="does not know its length")


def _cut(make: Callable[[np.ndarray], bytes], reason: str = "truncated") -> Kind:
    return Kind(lambda audio: cut(make(audio)), 0, reason)


def _text(text: bytes) -> Callable[[np.ndarray], bytes]:
    return lambda audio: text


_MP3, _OGG, _FLAC, _WAV = _as("MP3"), _as("OGG"), _as("FLAC"), _as("WAV")
_M4A, _FASTSTART = _by("ipod", "aac", 16_000), _by("ipod", "aac", 16_000, movflags="+faststart")
_HEADERLESS = _by("mp3", "libmp3lame", 16_000, write_xing="0", id3v2_version="0")
_ID3 = b"ID3\x04\0\0\0\0\x10\0" + bytes(2_048)
_HALF = "\ud83c"  # of a character that two \u escapes make

KINDS: dict[str, Kind] = {
    # Every format that is sound, whole.
    "plain.wav": Kind(_WAV),
    "loud.WAV": Kind(_WAV),
    "w.wave": Kind(_WAV),
    "b24.wav": Kind(_as("WAV", "PCM_24")),
    "u8.wav": Kind(_as("WAV", "PCM_U8")),
    "float.wav": Kind(_as("WAV", "FLOAT")),
    "double.wav": Kind(_as("WAV", "DOUBLE")),
    "ulaw.wav": Kind(_as("WAV", "ULAW")),
    "alaw.wav": Kind(_as("WAV", "ALAW")),
    "msadpcm.wav": Kind(_as("WAV", "MS_ADPCM")),
    "imaadpcm.wav": Kind(_as("WAV", "IMA_ADPCM")),
    "gsm.wav": Kind(_as("WAV", "GSM610")),
    "g721.wav": Kind(_as("WAV", "G721_32")),
    "nms16.wav": Kind(_as("WAV", "NMS_ADPCM_16")),
    "nms32.wav": Kind(_as("WAV", "NMS_ADPCM_32")),
    "eight.wav": Kind(lambda audio: sound(np.repeat(audio[:, None], 8, axis=1))),
    "r.rf64": Kind(_as("RF64")),
    "w.w64": Kind(_as("W64")),
    "a.aiff": Kind(_as("AIFF")),
    "c.caf": Kind(_as("CAF")),
    "a.au": Kind(_as("AU")),
    "f.flac": Kind(_FLAC),
    "m.mp3": Kind(_MP3),
    "o.ogg": Kind(_OGG),
    "v.oga": Kind(_OGG),
    "f.oga": Kind(_by("ogg", "flac")),
    "o.opus": Kind(_by("opus", "libopus", 48_000)),
    "a.m4a": Kind(_M4A),
    "l.m4a": Kind(_by("ipod", "alac")),
    "a.aac": Kind(_by("adts", "aac", 16_000)),
    "w.wma": Kind(_by("asf", "wmav2", 16_000)),
    "m.mp2": Kind(_by("mp2", "mp2", 16_000)),
    "a.ac3": Kind(_by("ac3", "ac3", 48_000)),
    "w.wv": Kind(_by("wv", "wavpack")),
    "t.tta": Kind(_by("tta", "tta")),
    "m.mka": Kind(_by("matroska", "flac")),
    "w.webm": Kind(_by("webm", "libopus", 48_000)),
    "v.mp4": Kind(_by("mp4", "aac", 16_000)),
    "fast.wav": Kind(lambda audio: sound(np.repeat(audio, 24), rate=24 * RATE)),  # 192 kHz
    "in32.wav": Kind(lambda audio: extensible(audio, 24)),
    "in32.rf64": Kind(lambda audio: extensible(audio, 24, b"RF64")),
    "s16in32.wav": Kind(lambda audio: extensible(audio, 16)),
    "bw64.wav": Kind(lambda audio: b"BW64" + sound(audio, "RF64")[4:]),
    "u.aifc": Kind(_as("AIFF", "ULAW")),
    "f.caf": Kind(_as("CAF", "FLOAT")),
    "alac.caf": Kind(_as("CAF", "ALAC_16")),
    "d.dsf": Kind(one_bit),
    "v.amr": Kind(_by("amr", "libopencore_amrnb")),
    "n.nist": Kind(_as("NIST")),
    "v.voc": Kind(_as("VOC")),
    "s.8svx": Kind(_as("SVX")),
    "chapters.m4b": Kind(_by("ipod", "aac", 16_000, chapters=3)),
    "film.mp4": Kind(_by("mp4", "aac", 16_000, picture="mpeg4")),
    "film.mkv": Kind(_by("matroska", "libopus", 48_000, picture="mpeg4")),
    "film.webm": Kind(_by("webm", "libopus", 48_000, picture="libvpx")),
    "cover.mp3": Kind(lambda audio: with_cover(sound(audio, "MP3"), 1 << 20)),
    "m_is_mp3.wav": Kind(_MP3),
    "w_is_wav.mp3": Kind(_WAV),
    "f_is_flac.ogg": Kind(_FLAC),
    "left.wav": Kind(lambda audio: sound(audio[:, None] * [1, 0])),
    "stems.mka": Kind(lambda audio: encoded(audio, "matroska", "flac", streams=2), reason="2 streams of sound, of which the first"),
    # Whole, with a header that says something else.
    "sox.wav": _pipe(0x7FFFF000),
    "sox_aligned.wav": _pipe(0x7FFFEFDC),
    "pipe.wav": _pipe(0x7FFFFFFF),
    "arecord.wav": _pipe(0x80000000),
    "odd.wav": _pipe(0xFFFFFFF7),
    "ffmpeg.wav": _pipe(0xFFFFFFFF),
    "killed.wav": _pipe(0),
    "stale.wav": Kind(lambda audio: resized(sound(audio), 8_000), reason="its header states 0.50 s only"),
    "chunk.wav": Kind(lambda audio: sound(audio) + b"LIST" + struct.pack("<I", 12) + b"INFOICMT\0\0\0\0"),
    "unknown.flac": Kind(lambda audio: flac_of_unknown_length(sound(audio, "FLAC"))),
    "zeros.ogg": Kind(lambda audio: sound(audio, "OGG") + bytes(20_000)),
    "endless.ogg": Kind(lambda audio: ogg_without_end(sound(audio, "OGG")), reason="no end mark"),
    "joined.ogg": Kind(lambda audio: 2 * sound(audio, "OGG"), 6),
    "joined.mp3": Kind(lambda audio: 2 * sound(audio, "MP3"), 6, r"its header states 2\.95 s only; the rest is used"),
    "joined_tags.mp3": Kind(lambda audio: 2 * (_ID3 + sound(audio, "MP3")), 6, "the rest is used too"),
    "joined_id3v1.mp3": Kind(lambda audio: sound(audio, "MP3") + b"TAG" + bytes(125) + sound(audio, "MP3"), 6, "rest is used"),
    "headerless.mp3": Kind(_HEADERLESS),
    "headerless_cut.mp3": Kind(lambda audio: cut(_HEADERLESS(audio), 0.703), 2, "last frame is incomplete"),
    # Cut.
    "cut.wav": _cut(_WAV),
    "twice.wav": Kind(lambda audio: resized(sound(audio), 4 * len(audio)), 0, r"truncated: 3\.20 s are missing"),
    "cut.rf64": _cut(_as("RF64")),
    "cut.w64": _cut(_as("W64")),
    "cut.aiff": _cut(_as("AIFF")),
    "cut.caf": _cut(_as("CAF")),
    "cut.au": _cut(_as("AU")),
    "cut.flac": _cut(_FLAC),
    "cut.mp3": _cut(_MP3),
    "cut.ogg": _cut(_OGG),
    "cut.opus": _cut(_by("opus", "libopus", 48_000)),
    "cut.m4a": _cut(_M4A, "cannot be read"),  # its table of contents stood at the end
    "cut_fast.m4a": _cut(_FASTSTART),
    "cut.aac": _cut(_by("adts", "aac", 16_000)),
    "cut.mka": _cut(_by("matroska", "flac")),
    "cut.tta": _cut(_by("tta", "tta")),
    "cut_in32.wav": _cut(lambda audio: extensible(audio, 24)),
    "cut_in32.rf64": _cut(lambda audio: extensible(audio, 24, b"RF64")),
    # Damaged.
    "hit.flac": Kind(lambda audio: hit(_FLAC(audio), 64), 0, "truncated|damaged"),
    "hit.mp3": Kind(lambda audio: hit(_MP3(audio), 300), 0, "are missing"),
    "no_rate.wav": Kind(lambda audio: changed(_WAV(audio), 24, bytes(4)), 0, "cannot be read"),
    "no_channels.wav": Kind(lambda audio: changed(_WAV(audio), 22, bytes(2)), 0, "cannot be read"),
    "no_block.wav": Kind(lambda audio: changed(_WAV(audio), 28, bytes(6))),
    "codec.wav": Kind(lambda audio: changed(_WAV(audio), 20, b"\x99\x99"), 0, "codec is unknown"),
    "i64.wav": Kind(lambda audio: changed(sound(audio, "WAV", "DOUBLE"), 20, b"\1"), 0, "samples of the form s64"),
    # No sound, or none that music has.
    "silent_film.mp4": Kind(silent_film, 0, "no sound in it"),
    "midi.wav": Kind(_text(b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\4\0\xff\x2f\0"), 0, "cannot be read"),
    "zip.wav": Kind(lambda audio: in_a_zip(_WAV(audio)), 0, "cannot be read"),
    "opposed.wav": Kind(lambda audio: sound(audio[:, None] * [1, -1]), 0, "silent"),
    "empty.wav": Kind(_text(b""), 0, "empty file"),
    "text.wav": Kind(_text(b"no sound at all\n" * 99), 0, "cannot be read"),
    "text.mp3": Kind(_text(b"no sound at all\n" * 99), 0, "cannot be read"),
    "zeros.mp3": Kind(_text(bytes(40_000)), 0, "cannot be read"),
    "noise.mp3": Kind(_text(np.random.default_rng(0).bytes(40_000)), 0, "cannot be read"),
    "noise.wav": Kind(_text(np.random.default_rng(1).bytes(40_000)), 0, "cannot be read"),
    "page.flac": Kind(_text(b"<!DOCTYPE html><html>404</html>"), 0, "no samples"),
    "list.wav": Kind(_text(b"#EXTM3U\n#EXTINF:1,\nhttp://localhost/y.mp3\n"), 0, "cannot be read"),
    "script.wav": Kind(_text(b"ffconcat version 1.0\nfile 'plain.wav'\n"), 0, "cannot be read"),
    "unknown.mpc": Kind(_text(b"MP+" + bytes(999)), 0, "cannot be read"),
    "header.wav": Kind(lambda audio: sound(audio[:0]), 0, "too short"),
    "sample.wav": Kind(lambda audio: sound(audio[:1]), 0, "too short"),
    "short.wav": Kind(lambda audio: sound(audio[:4_000]), 0, r"too short: 0\.50 s"),
    "silent.wav": Kind(lambda audio: sound(0 * audio), 0, "silent"),
    "offset.wav": Kind(lambda audio: sound(0 * audio + 0.3), 0, "silent"),
    "nan.wav": Kind(lambda audio: sound(with_value(audio, np.nan), "WAV", "FLOAT"), 0, "NaN"),
    "infinite.wav": Kind(lambda audio: sound(with_value(audio, np.inf), "WAV", "FLOAT"), 0, "infinite"),
    "integers.wav": Kind(lambda audio: sound(audio * 32_767, "WAV", "FLOAT"), 0, "integers stored as floats"),
    "beyond.wav": Kind(lambda audio: sound(with_value(audio, 1e300), "WAV", "DOUBLE"), 0, "NaN or infinite"),
    "far.caf": Kind(lambda audio: far_caf(sound(audio, "CAF")), 0, "cannot be read"),
    "clipped.wav": Kind(lambda audio: sound(audio * 9, "WAV", "FLOAT"), 0, "beyond full scale"),
    "slow.wav": Kind(lambda audio: sound(audio[:200], rate=1), 0, "sampling rate of 1 Hz"),
    # Captions.
    "mute.wav": Kind(_WAV, 0, "no caption", {}),
    "blank.wav": Kind(_WAV, 0, "no caption", {".txt": b" \n\n"}),
    "bom.wav": Kind(_WAV, sidecars={".txt": b"\xef\xbb\xbfa tone"}),
    "bom_json.wav": Kind(_WAV, sidecars={".json": b'\xef\xbb\xbf{"caption": "a tone"}'}),
    "audiocraft.wav": Kind(_WAV, sidecars=json_sidecar(description="a tone", bpm=126.0, key="C", keywords=["x"])),
    "infinite_bpm.wav": Kind(_WAV, 3, "its bpm inf is not understood", json_sidecar(caption="a tone", bpm=float("inf"))),
    "latin1.wav": Kind(_WAV, 0, "caption file is unreadable", {".txt": "fünf".encode("latin-1")}),
    "broken_json.wav": Kind(_WAV, 0, "caption file is unreadable", {".json": b"{broken"}),
    "deep_json.wav": Kind(_WAV, 0, "caption file is unreadable", {".json": b"[" * 200_000}),
    "digits.wav": Kind(_WAV, 3, "its bpm 1+ is not understood", {".json": b'{"caption": "a", "bpm": ' + b"1" * 4_000 + b"}"}),
    "never.wav": Kind(_WAV, 3, "its downbeat 10+ is not understood", json_sidecar(caption="a", downbeat=10**400)),
    "camelot.wav": Kind(_WAV, 3, "its key '8A' is not understood", json_sidecar(caption="a", bpm="128 BPM", key="8A")),
    "half.wav": Kind(_WAV, 0, "no Unicode text", json_sidecar(caption=f"great tune {_HALF}")),
    "half_licence.wav": Kind(_WAV, 0, "no Unicode text", json_sidecar(caption="a tone", licence=_HALF)),
    "book.wav": Kind(_WAV, 0, r"book\.txt has 12\.0 MB", {".txt": b"word " * 2_400_000}),
    "long.wav": Kind(_WAV, 0, "a caption of 50000 characters", {".txt": b"a" * 50_000}),
    "many.wav": Kind(_WAV, 0, "300 captions", {".txt": "".join(f"{i}\n" for i in range(300)).encode()}),
    "upper.wav": Kind(_WAV, sidecars={".TXT": b"a tone"}),
    "utf16.wav": Kind(_WAV, 0, "not UTF-8", {".txt": "a tone".encode("utf-16")}),
    "nul.wav": Kind(_WAV, sidecars={".txt": b"a \0 tone"}),
    # Names.
    "\U0001f3bb \u202e.wav": Kind(_WAV),
    "100 %d%s $(x) `y` *?[a].wav": Kind(_WAV),
    f"{'long' * 62}.wav": Kind(_WAV),  # a.wav.json could not be called so
    "data:audio,x.wav": Kind(_WAV),
    "caf\udce9.wav": Kind(_WAV),  # Latin-1 on disk
    "new\nline.wav": Kind(_WAV),
    "-i http:x.wav": Kind(_WAV),
    # Never looked at.
    "._plain.wav": Kind(_text(b"\0\5\x16\7"), 0, NOTHING),
    ".hidden.wav": Kind(_WAV, 0, NOTHING),
}  # fmt: skip


def tone_of(number: int) -> np.ndarray:
    """float64 [n]: the tone of the file of this number. Each has its own: the same sound twice is left out."""
    return tone(300 + 17 * number, SECONDS, RATE)[:, 0]
