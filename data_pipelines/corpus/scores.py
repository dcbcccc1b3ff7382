"""Reads the corpus's files: ABC tunes with symusic, MusicXML and Humdrum scores with verovio."""

import base64
import dataclasses
import functools
import hashlib
import pathlib
import re
import zipfile

import numpy as np

from data_pipelines.corpus import abc_text
from data_pipelines.corpus.sources import FORBIDDEN, Collection
from data_pipelines.corpus.theory import Key

TICKS = 480  # per quarter note, everywhere in the corpus
_GRID = 10  # readers shorten notes by a tick or two; every value from 1/32 and its triplet is a multiple of 10
_LARGEST = 2_500_000  # characters of MusicXML; whole quartets in one file take verovio many seconds
_RUN = 16
_METRES = {(n, d) for n in (2, 3, 4, 6, 9, 12) for d in (2, 4, 8)} - {(12, 2), (9, 2), (12, 4), (9, 4), (2, 8), (4, 8)}


class UnreadableError(Exception):
    """A piece cannot be used; the message says why."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """One tune or score, in one metre.

    Attributes:
        source: collection/file#number.
        collection, title, rhythm, licence: as the file says; rhythm "" where it says none.
        numerator, denominator: the metre.
        key: the key stated in the file, or None.
        notes: int32 [n, 4]: part, onset, duration (ticks), pitch; sorted by onset; the first downbeat is at 0, notes
            of the pickup have negative onsets.
        marks: strings that identify the music: two pieces with a common mark are the same tune.
    """

    source: str
    collection: str
    title: str
    rhythm: str
    licence: str
    numerator: int
    denominator: int
    key: Key | None
    notes: np.ndarray
    marks: tuple[str, ...]

    @property
    def bar(self) -> int:
        """Length of a bar in ticks."""
        return bar_ticks(self.numerator, self.denominator)


def bar_ticks(numerator: int, denominator: int) -> int:
    """Length of a bar in ticks."""
    return numerator * 4 * TICKS // denominator


def beat_ticks(numerator: int, denominator: int) -> int:
    """Length in ticks of the beat that is counted: dotted in compound metres, a half note in 2/2, 3/2 and 4/2."""
    unit = 4 * TICKS // denominator
    return 3 * unit if numerator % 3 == 0 and (denominator == 8 or numerator > 3) else unit


def read_file(collection: Collection, path: pathlib.Path) -> tuple[list[Piece], list[dict[str, str]]]:
    """All pieces of a file, and for those left out {"source", "reason"}."""
    pieces, rejected = [], []
    inside = () if path.parent.name == collection.name else (path.parent.name,)
    name = "/".join((collection.name, *inside, path.name))
    if collection.kind == "tunes":
        text = path.read_bytes().decode("utf-8", "replace")
        readers = {
            f"{name}#{abc_text.field(tune, 'X')}": functools.partial(read_abc, text=tune)
            for tune in abc_text.split_tunes(text)
        }
    else:
        readers = {name: functools.partial(read_score, path=path)}
    for source, read in readers.items():
        try:
            pieces.append(read(collection, source))
        except (UnreadableError, ValueError, RuntimeError, OSError, zipfile.BadZipFile) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            rejected.append({"source": source, "reason": reason[:200]})
    return pieces, rejected


def read_abc(collection: Collection, source: str, text: str) -> Piece:
    """One ABC tune. symusic writes warnings to the standard output and error of the process.

    Raises:
        UnreadableError: no notes, a changing or unusual metre, or too short.
        RuntimeError: symusic cannot parse the text.
    """
    import symusic  # a large native library, wanted only where pieces are read

    # Chord symbols of the corpus are unreliable; without this directive they would be played as an accompaniment.
    score = symusic.Score.from_abc(re.sub(r"(?m)^(K:.*)$", "%%MIDI gchordoff\n\\1", text, count=1))
    notes, (numerator, denominator) = _notes(score)
    bar = bar_ticks(numerator, denominator)
    notes[:, 1] -= abc_text.pickup(text, bar, TICKS)
    title = re.sub(r"\s+", " ", abc_text.field(text, "T")).strip(" .") or "untitled"
    return Piece(
        source=source,
        collection=collection.name,
        title=_readable(title),
        rhythm=abc_text.rhythm_of(text, numerator % 3 == 0 and denominator == 8),
        licence=collection.licence,
        numerator=numerator,
        denominator=denominator,
        key=abc_text.parse_key(abc_text.field(text, "K")),
        notes=_checked(notes, bar),
        marks=(*_title_marks(title), *_music_marks(notes, beat_ticks(numerator, denominator))),
    )


def read_score(collection: Collection, source: str, path: pathlib.Path) -> Piece:
    """One MusicXML (plain or zipped) or Humdrum file.

    Raises:
        UnreadableError: verovio cannot read it, its licence forbids it, it is too large, or its metre is unusual.
    """
    import symusic
    import verovio

    text = _xml_text(path)
    if len(text) > _LARGEST:
        raise UnreadableError(f"too large ({len(text) / 1e6:.1f} million characters)")
    head = text[: text.find("<part ")] if "<part " in text else text[:4000] + text[-4000:]
    notice = FORBIDDEN.search(head)
    if notice and not collection.restricted:
        raise UnreadableError(f"licence: the file says {notice.group(0)!r}")
    verovio.enableLog(verovio.LOG_OFF)
    toolkit = verovio.toolkit()
    toolkit.setOptions({"breaks": "none"})
    if not toolkit.loadData(text):
        raise UnreadableError("verovio cannot read it")
    score = symusic.Score.from_midi(base64.b64decode(toolkit.renderToMIDI()))
    notes, (numerator, denominator) = _notes(score)
    bar = bar_ticks(numerator, denominator)
    notes[:, 1] -= _implicit_bar(text, bar)
    stem = re.sub(r"-(sc|lz|[a-z])$", "", path.stem)
    return Piece(
        source=source,
        collection=collection.name,
        title=_xml_title(head) or _readable(path.stem),
        rhythm="",
        licence=collection.licence,
        numerator=numerator,
        denominator=denominator,
        key=None,  # the mode that these files state is often wrong: the notes decide
        notes=_checked(notes, bar),
        marks=(f"file:{source.rsplit('/', 1)[0]}/{stem}", *_music_marks(notes, beat_ticks(numerator, denominator))),
    )


def _notes(score) -> tuple[np.ndarray, tuple[int, int]]:
    """Notes (part, onset, duration, pitch) in ticks, cut to the longest run of one metre, and that metre."""
    factor = TICKS / score.ticks_per_quarter
    tables = []
    for part, track in enumerate(track for track in score.tracks if len(track.notes) and not track.is_drum):
        soa = track.notes.numpy()
        onset, duration = soa["time"] * factor, soa["duration"] * factor
        onset = np.round(onset / _GRID) * _GRID
        duration = np.maximum(np.round((duration + 1) / _GRID) * _GRID, _GRID)
        tables.append(np.stack([np.full(len(onset), part), onset, duration, soa["pitch"]], -1))
    if not tables:
        raise UnreadableError("no notes")
    notes = np.concatenate(tables).astype(np.int32)
    notes = notes[np.lexsort((notes[:, 0], notes[:, 3], notes[:, 1]))]
    start, end, metre = _longest_metre(score, factor, int((notes[:, 1] + notes[:, 2]).max()))
    if metre not in _METRES:
        raise UnreadableError(f"unusual metre {metre[0]}/{metre[1]}")
    notes = notes[(notes[:, 1] >= start) & (notes[:, 1] < end)]
    notes[:, 1] -= start
    return notes, metre


def _longest_metre(score, factor: float, end: int) -> tuple[int, int, tuple[int, int]]:
    changes = sorted({(int(s.time * factor), int(s.numerator), int(s.denominator)) for s in score.time_signatures})
    if not changes:
        raise UnreadableError("no metre")
    runs = []
    for at, *metre in changes:
        if not runs or runs[-1][1] != tuple(metre):
            runs.append((at, tuple(metre)))
    stops = [at for at, _ in runs[1:]] + [end]
    spans = [(stop - at, at, stop, metre) for (at, metre), stop in zip(runs, stops, strict=True)]
    _, start, stop, metre = max(spans, key=lambda span: span[0])
    return start, stop, metre


def _checked(notes: np.ndarray, bar: int) -> np.ndarray:
    if len(notes) < 16:
        raise UnreadableError(f"too short ({len(notes)} notes)")
    if (notes[:, 1] + notes[:, 2]).max() < 4 * bar:
        raise UnreadableError("shorter than four bars")
    if notes[:, 3].min() < 21 or notes[:, 3].max() > 108:
        raise UnreadableError("pitches outside the piano's compass")
    return notes


def _music_marks(notes: np.ndarray, beat: int) -> tuple[str, ...]:
    """Marks of a piece, independent of key and tempo.

    The top part's first intervals; its skeleton by beats, which agrees between versions that ornament a tune
    differently; and a sample of every part's runs of 16 intervals, by which a strain is found in the middle of another
    piece (winnowing: both pieces keep the same eighth of all possible runs; scales and arpeggios, of few different
    intervals, mark nothing).
    """
    tops = [notes[notes[:, 0] == part] for part in np.unique(notes[:, 0])]
    top = max(tops, key=lambda part: (len(part) >= 12, part[:, 3].mean()))
    top = top[top[:, 1] >= 0]
    marks = []
    steps = np.diff(top[:, 3])
    steps = steps[steps != 0]
    if len(steps) >= 12:
        marks.append(_digest("intervals", steps[:14]))
    at = np.searchsorted(top[:, 1], np.arange(10) * beat, side="right") - 1
    skeleton = top[np.maximum(at, 0), 3]
    if len(set(skeleton.tolist())) >= 5:
        marks.append(_digest("skeleton", skeleton - skeleton[0]))
    runs = set()
    for part in tops:
        steps = np.diff(part[:, 3])
        steps = steps[steps != 0]
        if len(steps) >= _RUN:
            runs |= {tuple(run) for run in np.lib.stride_tricks.sliding_window_view(steps, _RUN).tolist()}
    digests = (_digest("run", run) for run in runs if len(set(run)) >= 5)
    return (*marks, *sorted(digest for digest in digests if int(digest[-1], 16) % 8 == 0))


def _digest(kind: str, numbers) -> str:
    text = ",".join(str(int(number)) for number in numbers)
    return f"{kind}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _title_marks(title: str) -> tuple[str, ...]:
    words = re.sub(r"\(.*?\)|--.*|\b(no|nr)\.? ?\d+", " ", title.lower())
    words = re.sub(r"'s\b|'", "", words)
    stop = {"the", "a", "an", "of", "and", "or", "reel", "jig", "hornpipe", "march", "waltz", "strathspey", "air"}
    kept = [word for word in re.findall(r"[a-zäöüß]+", words) if word not in stop]
    name = " ".join(sorted(kept))
    return (f"title:{name}",) if len(kept) >= 2 or len(name) >= 8 else ()


def _readable(title: str) -> str:
    """Titles like "DOCTOR O'NEILL" or "ReillysWedding" as one would write them."""
    title = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", title) if " " not in title else title
    match = re.fullmatch(r"(.*), (The|A|An)", title)
    title = f"{match.group(2)} {match.group(1)}" if match else title
    return title.capitalize() if title.isupper() else title


def _xml_text(path: pathlib.Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".mxl":
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith("xml") and not n.startswith("META-INF")]
            data = archive.read(names[0])
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return re.sub(r'encoding="[^"]*"', 'encoding="UTF-8"', data.decode("utf-16"), count=1)
    return data.decode("utf-8", "replace")


def _xml_title(head: str) -> str:
    for tag in ("work-title", "movement-title"):
        match = re.search(rf"<{tag}>([^<]+)<", head)
        if match and "\n" not in match.group(1):
            return match.group(1).strip()
    return ""


def _implicit_bar(text: str, bar: int) -> int:
    """Length in ticks of an incomplete first measure of a MusicXML score (its first part), else 0."""
    match = re.search(r"<measure [^>]*>(.*?)</measure>", text, re.DOTALL)
    if not match:
        return 0
    measure = match.group(1)
    divisions = re.search(r"<divisions>(\d+)</divisions>", measure)
    if not divisions:
        return 0
    at = longest = 0
    for tag, body in re.findall(r"<(note|backup|forward)\b[^>]*>(.*?)</\1>", measure, re.DOTALL):
        duration = re.search(r"<duration>(\d+)</duration>", body)
        if not duration or (tag == "note" and "<chord" in body):
            continue
        at += -int(duration.group(1)) if tag == "backup" else int(duration.group(1))
        longest = max(longest, at)
    ticks = longest * TICKS // int(divisions.group(1))
    return ticks if ticks < bar else 0
