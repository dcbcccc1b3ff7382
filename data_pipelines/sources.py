"""The user's own music: a folder, an AudioCraft manifest or a MusicCaps table as a list of captioned sound files."""

import ast
import csv
import dataclasses
import gzip
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from data_pipelines.decode import EXTENSIONS
from melody_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SoundFile:
    """One captioned sound file; all of its clips go to the same split.

    Attributes:
        path: where it is.
        name: relative to its source, stable when the source moves: the clips' `tune`, and what decides the split.
        captions: at least one.
        source: "folder", "manifest" or "musiccaps".
        licence: "" where nobody stated one.
        start, end: the part to take, seconds; end None means to the end.
        size, modified: of the file (bytes, ns), so that staged work is redone when it changes.
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
    """One line of rejected.jsonl. `start` (seconds) where only a part of the file was refused, None for all of it."""

    path: str
    reason: str
    start: float | None = None


Listed = SoundFile | Rejection


def folder(path: str, licence: str = "") -> list[Listed]:
    """Every sound file under `path`, captioned by a `.txt` (a caption a line) or `.json` beside it.

    The sidecar of `a/b.wav` is `a/b.txt` or `a/b.json` (or `a/b.wav.json`); with several, their captions are joined.

    Raises:
        UserError: no folder at `path`, or no sound file in it.
    """
    root = pathlib.Path(path)
    if not root.is_dir():
        raise UserError(f"{path}: no such folder")
    sounds = sorted(p for p in root.rglob("*") if p.is_file() and p.suffix.lower() in EXTENSIONS)
    if not sounds:
        raise UserError(f"{path}: no sound files ({', '.join(EXTENSIONS)}) in this folder or below it")
    return [_listed(sound, sound.relative_to(root).as_posix(), "folder", licence) for sound in sounds]


def manifest(path: str, licence: str = "") -> list[Listed]:
    """The files of a jsonl manifest in AudioCraft's form, plain or gzipped.

    A row is {"path", "duration", "sample_rate", ...}; a relative path is taken from the manifest's folder. Captions
    come from the row itself or from the sidecar (`info_path`, or the file's name with .json or .txt).

    Raises:
        UserError: no such file, or a line that is no JSON object with a "path" (named by its number).
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise UserError(f"{path}: no such manifest")
    listed: list[Listed] = []
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                listed.append(_manifest_row(line, f"{path}, line {number}", file.parent, licence))
    if not listed:
        raise UserError(f"{path}: the manifest is empty")
    return listed


def musiccaps(path: str, audio: str, licence: str = "") -> list[Listed]:
    """The clips of a MusicCaps CSV, found by their `ytid` among the sound files of the folder `audio`.

    A file belongs to the row whose ytid its name begins with (as in `-0Gj8-vB1q4.wav` or `[-0Gj8-vB1q4]-[30-40].wav`).
    A file longer than 11 s that reaches to `end_s` is taken to be the whole recording and cut from `start_s` to
    `end_s`; any other is the clip itself.
    Captions: the `caption` and the `aspect_list` as a comma-separated sentence. A row without a file is rejected.

    Raises:
        UserError: the table or the folder is missing, or a column is.
    """
    table, root = pathlib.Path(path), pathlib.Path(audio)
    if not table.is_file():
        raise UserError(f"{path}: no such MusicCaps table")
    if not root.is_dir():
        raise UserError(f"{audio}: no such folder of MusicCaps clips")
    sounds = sorted(p for p in root.rglob("*") if p.is_file() and p.suffix.lower() in EXTENSIONS)
    by_id = {}
    for sound in sounds:  # a YouTube id has 11 characters, "_" and "-" among them
        by_id.setdefault(sound.stem.lstrip("[")[:11], sound)
    with open(table, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        missing = {"ytid", "start_s", "end_s", "aspect_list", "caption"} - set(rows.fieldnames or ())
        if missing:
            raise UserError(f"{path}: not a MusicCaps table, it has no column {', '.join(sorted(missing))}")
        listed = [_musiccaps_row(row, f"{path}, line {rows.line_num}", by_id, licence) for row in rows]
    if not listed:
        raise UserError(f"{path}: the table is empty")
    return listed


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
    if isinstance(tags.get("bpm"), (int, float)) and tags["bpm"] > 0:
        parts.append(f"{tags['bpm']:g} bpm")
    if _words(tags.get("key")):
        parts.append("in " + _words(tags["key"])[0])
    return _clean([*written, ", ".join(part for part in parts if part)])


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value.strip()] if value.strip() else []
    return [word.strip() for word in value if isinstance(word, str) and word.strip()] if isinstance(value, list) else []


def _clean(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in (" ".join(t.split()) for t in texts) if text))


def _manifest_row(line: str, where: str, root: pathlib.Path, licence: str) -> Listed:
    try:
        row = json.loads(line)
        name = row["path"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f'{where}: not a JSON object with a "path"') from None
    if not isinstance(name, str) or not name:
        raise UserError(f'{where}: "path" is no file name')
    return _listed(root / name, name, "manifest", licence, row)


def _musiccaps_row(row: dict[str, str], where: str, by_id: dict[str, pathlib.Path], licence: str) -> Listed:
    name = row["ytid"] or where
    try:
        start, end = float(row["start_s"]), float(row["end_s"])
        aspects = ast.literal_eval(row["aspect_list"]) if row["aspect_list"] else []
    except (ValueError, SyntaxError, TypeError):
        return Rejection(name, f"{where}: start_s, end_s or aspect_list is unreadable")
    sound = by_id.get(row["ytid"])
    if sound is None:
        return Rejection(name, "no sound file of this ytid")
    captions = [row["caption"] or "", ", ".join(_words(aspects))]
    listed = _listed(sound, name, "musiccaps", licence, {"captions": captions})
    if isinstance(listed, Rejection) or not _reaches(sound, end):
        return listed
    return dataclasses.replace(listed, start=start, end=end)


def _reaches(sound: pathlib.Path, end: float) -> bool:
    """Whether the file is the whole recording, because it is longer than the 10 s clip and reaches to `end`."""
    import soundfile

    try:
        duration = soundfile.info(str(sound)).duration
    except soundfile.LibsndfileError:
        return False  # the decoder will say why
    return duration > 11.0 and duration >= end - 0.1


def _listed(path: pathlib.Path, name: str, source: str, licence: str, tags: dict[str, Any] | None = None) -> Listed:
    """A sound file with the captions of its tags and sidecars; a rejection where there are none."""
    tags = dict(tags or {})
    try:
        stat = path.stat()
        captions = list(captions_of_tags(tags))
        for info in _sidecars(path, tags):
            found, stated, more = _read_sidecar(info)
            captions += found
            licence = stated or licence
            tags = more | tags
    except OSError as error:
        return Rejection(str(path), f"cannot be read: {error.strerror}")
    except ValueError as error:
        return Rejection(str(path), f"its caption file is unreadable: {error}")
    licence = next(iter(_words(tags.get("licence")) + _words(tags.get("license"))), licence)
    unique = _clean(captions)
    if not unique:
        return Rejection(str(path), "no caption")
    size, modified = stat.st_size, stat.st_mtime_ns
    return SoundFile(os.path.abspath(path), name, unique, source, licence, size=size, modified=modified, tags=tags)


def _sidecars(path: pathlib.Path, tags: dict[str, Any]) -> Iterator[pathlib.Path]:
    candidates = [path.with_suffix(".json"), pathlib.Path(f"{path}.json"), path.with_suffix(".txt")]
    if isinstance(tags.get("info_path"), str):
        candidates.insert(0, path.parent / tags["info_path"])
    yield from dict.fromkeys(candidate for candidate in candidates if candidate.is_file())


def _read_sidecar(path: pathlib.Path) -> tuple[tuple[str, ...], str, dict[str, Any]]:
    """(captions, licence, everything it says) of a `.txt` or `.json`. Raises ValueError where it is not UTF-8 or not JSON."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return _clean(text.splitlines()), "", {}
    tags = json.loads(text)
    if not isinstance(tags, dict):
        return captions_of_tags(tags), "", {}
    licence = _words(tags.get("licence")) + _words(tags.get("license"))
    return captions_of_tags(tags), (licence or [""])[0], tags
