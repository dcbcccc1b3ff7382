"""The user's own music: a folder, an AudioCraft manifest or a MusicCaps table as a list of captioned sound files."""

import ast
import collections
import concurrent.futures
import csv
import dataclasses
import errno
import io
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from data_pipelines.decode import EXTENSIONS
from data_pipelines.records import IN_FLIGHT
from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.files import read_json, read_text
from melody_jax.storage import Path

# A text tower reads a few hundred words; a caption is tokenised at every draw.
_MOST_CHARACTERS = 10_000
_MOST_CAPTIONS = 100
_SIDECARS = (".txt", ".json")
_MOST_SIDECAR_BYTES = 1 << 20
# What json.loads and ast.literal_eval raise for text that is not what it should be, or is nested too deep.
_UNREADABLE = (ValueError, SyntaxError, TypeError, KeyError, OverflowError, MemoryError, RecursionError)


@dataclasses.dataclass(frozen=True)
class SoundFile:
    """One captioned sound file; all of its clips go to the same split.

    Attributes:
        path: where it is.
        name: relative to its source, stable when the source moves: the clips' `tune`, and what decides the split.
        captions: at least one.
        source: "folder", "manifest" or "musiccaps".
        licence: "" where nobody stated one.
        start, end: the part to take, seconds, of a file that is longer than 11 s and reaches to `end`; any other file is the
            part itself. end None takes all of the file.
        size, modified: of the file (bytes, ns), so that its chunk is made anew when it changes.
        tags: everything that its sidecars or its row say of it, as they say it (AudioCraft's bpm, key, instrument, ...).
    """

    path: str
    name: str
    captions: tuple[str, ...]
    source: str
    licence: str = ""
    start: float = 0.0
    end: float | None = None
    size: int = 0
    modified: int = 0
    tags: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rejection:
    """One line of rejected.jsonl.

    Attributes:
        path: of the file.
        reason: why it is not used, or what is odd about it.
        start: seconds, where the line is of one place of a file that is used otherwise; None where all of it is refused.
        same_as: path of the file whose sound it repeats; that is nothing to be mended and does not count as a fault.
        again: the fault may be the machine's (no permission, a disk or a network that fails): the file is tried again
            whenever the data set is asked for.
    """

    path: str
    reason: str
    start: float | None = None
    same_as: str | None = None
    again: bool = False

    @property
    def is_fault(self) -> bool:
        """Whether a whole file is rejected that its owner could repair."""
        return self.start is None and self.same_as is None


Listed = SoundFile | Rejection


def folder(path: str, licence: str = "", others: collections.Counter[str] | None = None) -> list[Listed]:
    """Every sound file under `path`, through linked folders too, captioned by a `.txt` (a caption a line) or `.json` beside it.

    Hidden files and folders are passed over, and with them what macOS writes beside a file (`._a.wav`).

    The sidecar of `a/b.wav` is `a/b.txt` or `a/b.json` (or `a/b.wav.json`); with several, their captions are joined.

    Args:
        others: gets how many files of each ending are neither sound nor captions by their names.

    Raises:
        UserError: no folder at `path`, or no sound file in it.
    """
    root = storage.path(path)
    if not root.is_dir():
        raise UserError(f"{path}: no such folder")
    sounds, unreadable = _sounds_below(root, others)
    if not sounds and not unreadable:
        raise UserError(f"{path}: no sound files ({', '.join(EXTENSIONS[:12])}, ...) in this folder or below it")
    return [*_each(lambda sound: _listed(sound, _name(sound, root), "folder", licence), sounds), *unreadable]


def manifest(path: str, licence: str = "") -> list[Listed]:
    """The files of a jsonl manifest in AudioCraft's form, plain or gzipped.

    A row is {"path", "duration", "sample_rate", ...}; a relative path is taken from the manifest's folder. Captions
    come from the row itself or from the sidecar (`info_path`, or the file's name with .json or .txt).

    Raises:
        UserError: no such file, no UTF-8, a damaged .gz, or a line that is no JSON object with a "path" (named by its
            number).
    """
    file = storage.path(path)
    if not file.is_file():
        raise UserError(f"{path}: no such manifest")
    lines = [(number, line) for number, line in enumerate(read_text(file).split("\n"), 1) if line.strip()]
    listed = _each(lambda row: _manifest_row(row[1], f"{path}, line {row[0]}", file.parent, licence), lines)
    if not listed:
        raise UserError(f"{path}: the manifest is empty")
    return listed


def musiccaps(path: str, audio: str, licence: str = "") -> list[Listed]:
    """The clips of a MusicCaps CSV, found by their `ytid` among the sound files of the folder `audio`.

    A file belongs to the row whose ytid its name begins with (as in `-0Gj8-vB1q4.wav` or `[-0Gj8-vB1q4]-[30-40].wav`).
    `start_s` and `end_s` are of the whole recording; what `SoundFile` says of `start` decides whether the file is that.
    Captions: the `caption` and the `aspect_list` as a comma-separated sentence. A row without a file is rejected.

    Raises:
        UserError: the table or the folder is missing, or a column is.
    """
    table, root = storage.path(path), storage.path(audio)
    if not table.is_file():
        raise UserError(f"{path}: no such MusicCaps table")
    if not root.is_dir():
        raise UserError(f"{audio}: no such folder of MusicCaps clips")
    by_id: dict[str, Path] = {}
    sounds, unreadable = _sounds_below(root)
    for sound in sounds:  # a YouTube id has 11 characters, "_" and "-" among them
        by_id.setdefault(sound.stem.lstrip("[")[:11], sound)
    rows = csv.DictReader(io.StringIO(read_text(table), newline=""))
    try:
        missing = {"ytid", "start_s", "end_s", "aspect_list", "caption"} - set(rows.fieldnames or ())
        if missing:
            raise UserError(f"{path}: not a MusicCaps table, it has no column {', '.join(sorted(missing))}")
        numbered = [(f"{path}, line {rows.line_num}", row) for row in rows]
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num + 1}: {error}") from None
    if not numbered:
        raise UserError(f"{path}: the table is empty")
    return [*_each(lambda row: _musiccaps_row(row[1], row[0], by_id, licence), numbered), *unreadable]


def captions_of_tags(tags: Any) -> tuple[str, ...]:
    """Captions in a sidecar's JSON: what is written under caption(s) or description, then one sentence from the tags.

    Tags are those of AudioCraft's MusicInfo (genre, moods, instrument(s), keywords, bpm, key); unknown ones are
    ignored, empty ones too.
    """
    if isinstance(tags, str):
        return _clean([tags])
    if isinstance(tags, list):
        return _clean(tag for tag in tags if isinstance(tag, str))
    if not isinstance(tags, dict):
        return ()
    written = [text for name in ("caption", "captions", "description", "text") for text in _words(tags.get(name))]
    parts = [", ".join(_words(tags.get(name))) for name in ("genre", "genres", "mood", "moods")]
    instruments = _words(tags.get("instrument")) + _words(tags.get("instruments"))
    if instruments:
        parts.append("with " + ", ".join(instruments))
    parts += [", ".join(_words(tags.get(name))) for name in ("keywords", "tags")]
    bpm = tags.get("bpm")
    if isinstance(bpm, (int, float)) and not isinstance(bpm, bool) and 0 < bpm < 1_000:
        parts.append(f"{bpm:g} bpm")
    if _words(tags.get("key")):
        parts.append("in " + _words(tags["key"])[0])
    return _clean([*written, ", ".join(part for part in parts if part)])


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value.strip()] if value.strip() else []
    return [word.strip() for word in value if isinstance(word, str) and word.strip()] if isinstance(value, list) else []


def _clean(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in (" ".join(t.split()) for t in texts) if text))


def _each(make: Callable[[Any], Listed], items: Iterable[Any]) -> list[Listed]:
    """`make` of every item, many at a time: a file of a bucket takes several requests."""
    with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
        return list(pool.map(make, items))


def _name(sound: Path, root: Path) -> str:
    return sound.relative_to(root).as_posix()


def _sounds_below(root: Path, others: collections.Counter[str] | None = None) -> tuple[list[Path], list[Rejection]]:
    """The sound files of a folder and those below it, and what cannot be read: see `folder`, `_files_below`."""
    files, rejected = _files_below(root)
    if others is not None:
        endings = (file.suffix.lower() for file in files)
        others.update(ending for ending in endings if ending not in (*EXTENSIONS, *_SIDECARS))
    return [file for file in files if file.suffix.lower() in EXTENSIONS], rejected


def _files_below(root: Path) -> tuple[list[Path], list[Rejection]]:
    """The files of a folder and those below it, sorted, hidden ones left out, and folders and links that cannot be read.

    Links to folders are followed, but never into a folder that contains the link.
    """
    if not isinstance(root, pathlib.Path):
        return sorted(root / name for name in storage.files_below(root) if not re.search(r"(^|/)\.", name)), []
    files: list[Path] = []
    rejected: list[Rejection] = []
    waiting: list[tuple[pathlib.Path, tuple[str, ...]]] = [(root, (os.path.realpath(root),))]
    while waiting:
        folder, above = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            rejected.append(Rejection(str(folder), f"cannot be read: {error.strerror}"))
            continue
        for entry in entries:
            path = pathlib.Path(entry.path)
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_symlink():
                    entry.stat()
                is_folder = entry.is_dir()
            except OSError as error:  # a link to nowhere, of which nobody knows whether it was an album
                rejected.append(Rejection(entry.path, f"cannot be read: {error.strerror}"))
                continue
            if is_folder:
                real = os.path.realpath(path)
                if real not in above:
                    waiting.append((path, (*above, real)))
            else:
                files.append(path)  # a pipe too: the decoder says why it is not used
    return sorted(files), sorted(rejected, key=lambda item: item.path)


def _manifest_row(line: str, where: str, root: Path, licence: str) -> Listed:
    try:
        row = json.loads(line)
        name = row["path"]
    except _UNREADABLE:
        raise UserError(f'{where}: not a JSON object with a "path"') from None
    if not isinstance(name, str) or not name:
        raise UserError(f'{where}: "path" is no file name')
    return _listed(storage.below(root, name), name, "manifest", licence, row)


def _musiccaps_row(row: dict[str, str], where: str, by_id: dict[str, Path], licence: str) -> Listed:
    name = row["ytid"] or where
    try:
        start, end = float(row["start_s"]), float(row["end_s"])
        aspects = ast.literal_eval(row["aspect_list"]) if row["aspect_list"] else []
        if not 0 <= start < end < math.inf:
            raise ValueError
    except _UNREADABLE:
        return Rejection(name, f"{where}: start_s, end_s or aspect_list is unreadable")
    sound = by_id.get(row["ytid"])
    if sound is None:
        return Rejection(name, "no sound file of this ytid")
    captions = [row["caption"] or "", ", ".join(_words(aspects))]
    listed = _listed(sound, name, "musiccaps", licence, {"captions": captions})
    return listed if isinstance(listed, Rejection) else dataclasses.replace(listed, start=start, end=end)


def _listed(path: Path, name: str, source: str, licence: str, tags: dict[str, Any] | None = None) -> Listed:
    """A sound file with the captions of its tags and sidecars; a rejection where there are none, or unusable ones."""
    tags = dict(tags or {})
    shown = str(path)
    try:
        size, modified = storage.size_and_change(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return Rejection(shown, f"cannot be read: {getattr(error, 'strerror', None) or error}")
    try:
        captions = list(captions_of_tags(tags))
        for info in _sidecars(path, tags):
            found, stated, more = _read_sidecar(info)
            captions += found
            licence = stated or licence
            tags = more | tags
    except (UserError, OSError) as error:
        return Rejection(shown, f"its caption file is unreadable: {error}")
    licence = next(iter(_words(tags.get("licence")) + _words(tags.get("license"))), licence)
    unique = _clean(captions)
    wrong = _what_is_wrong(unique, licence)
    if wrong:
        return Rejection(shown, wrong)
    place = shown if storage.in_bucket(path) else os.path.abspath(path)
    return SoundFile(place, name, unique, source, licence, size=size, modified=modified, tags=tags)


def _what_is_wrong(captions: tuple[str, ...], licence: str) -> str:
    """Why these captions cannot be used; "" where they can."""
    if not captions:
        return "no caption"
    if len(captions) > _MOST_CAPTIONS:
        return f"{len(captions)} captions, at most {_MOST_CAPTIONS} can be used"
    longest = max(map(len, captions))
    if longest > _MOST_CHARACTERS:
        return f"a caption of {longest} characters, at most {_MOST_CHARACTERS} can be used"
    for text in (*captions, licence):
        try:
            text.encode()
        except UnicodeEncodeError as error:  # half of a character that two \\u escapes make
            return f"its caption or licence is no Unicode text: {ascii(text[error.start])} in {ascii(text[:40])}"
    return ""


def _sidecars(path: Path, tags: dict[str, Any]) -> Iterator[Path]:
    candidates = [path.with_suffix(".json"), path.with_name(f"{path.name}.json"), path.with_suffix(".txt")]
    candidates += [path.with_suffix(".JSON"), path.with_suffix(".TXT")]
    if isinstance(tags.get("info_path"), str):
        candidates.insert(0, storage.below(path.parent, tags["info_path"]))
    for candidate in dict.fromkeys(candidates):
        try:
            if candidate.is_file():
                yield candidate
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # no file can be called so, but the sound may be
                raise


def _read_sidecar(path: Path) -> tuple[tuple[str, ...], str, dict[str, Any]]:
    """(captions, licence, everything it says) of a `.txt` or `.json`. Raises UserError where it cannot be read."""
    size = storage.size_of(path)
    if size > _MOST_SIDECAR_BYTES:
        raise UserError(f"{path.name} has {size / 1e6:.1f} MB, at most {_MOST_SIDECAR_BYTES / 1e6:.0f} MB are read")
    if path.suffix.lower() != ".json":
        return _clean(read_text(path).splitlines()), "", {}
    tags = read_json(path)
    if not isinstance(tags, dict):
        return captions_of_tags(tags), "", {}
    licence = _words(tags.get("licence")) + _words(tags.get("license"))
    return captions_of_tags(tags), (licence or [""])[0], tags
