"""Nothing is lost in silence: every odd file is used, or stands in rejected.jsonl with its reason."""

import contextlib
import csv
import io
import json
import os
import re

import numpy as np
import pytest

from data_pipelines import build, sources
from data_pipelines.request import Request
from melody_jax.errors import UserError
from tests.data_pipelines.odd_inputs import KINDS, NOTHING, sound, tone_of
from tests.data_pipelines.tones import RATE, pitch_of

DEEP = "d" * 250


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """({file: clips}, {file: lines of rejected.jsonl}, {file: first clip}) of a folder with all kinds, links and pipes."""
    root = tmp_path_factory.mktemp("odd")
    music, other = root / "music", root / "other"
    for folder in (music, other, music / ".git"):
        folder.mkdir()
    for number, (name, kind) in enumerate(KINDS.items()):
        (music / name).write_bytes(kind.make(tone_of(number)))
        for suffix, text in kind.sidecars.items():
            (music / name).with_suffix(suffix).write_bytes(text)
    for number, path in enumerate((music / ".git/a.wav", other / "linked.wav"), len(KINDS)):
        path.write_bytes(sound(tone_of(number)))
        path.with_suffix(".txt").write_text("a tone")
    for name, target in {
        "album": other,
        "loop": music,
        "gone.wav": root / "nowhere",
        "zcopy.wav": music / "plain.wav",
    }.items():
        (music / name).symlink_to(target)
        (music / name).with_suffix(".txt").write_text("a link")
    os.mkfifo(music / "pipe.aiff")
    (music / "pipe.txt").write_text("a pipe")
    (music / "turn.wav").symlink_to("turn.wav")
    (music / "zero.wav").symlink_to("/dev/zero")
    (music / "zero.txt").write_text("a device")
    (music / "disk").symlink_to(root / "unplugged")
    with contextlib.chdir(music):  # a folder so deep that no path leads there
        for _ in range(17):
            os.mkdir(DEEP)
            os.chdir(DEEP)
    request = Request("folder", str(music), sample_rate=RATE, seconds=1.0, min_seconds=0.9, quota=1.0)
    prepared = build.prepare(request, root / "data", processes=1)
    clips, first = {}, {}
    for chunk in (chunk for chunks in prepared.chunks.values() for chunk in chunks):
        name = os.path.relpath(chunk.work.name, music)
        places = [clip["at"] for clip in chunk.clips()]
        clips[name] = len(places)
        first |= {name: chunk.clip(*places[0])["audio"]} if places else {}
    lines = {}
    for line in (root / "data" / "rejected.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["reason"].startswith("called like"):  # the names of the table say what is odd, not what music it is
            continue
        lines.setdefault(os.path.relpath(row["path"], music), []).append(row["reason"])
    return clips, lines, first


@pytest.mark.parametrize("name", KINDS, ids=ascii)
def test_a_file_is_used_or_listed(outcome, name):
    clips, lines, _ = outcome
    kind = KINDS[name]
    assert clips.get(name, 0) == kind.clips, lines.get(name)
    if kind.reason in ("", NOTHING):
        assert name not in lines
    else:
        (reason,) = lines[name]
        assert re.search(kind.reason, reason), reason
    assert "Error" not in "".join(lines.get(name, ())), "a fault of ours, not the file's"


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.clips], ids=ascii)
def test_what_is_used_sounds_as_it_should(outcome, name):
    number = list(KINDS).index(name)
    audio = outcome[2][name] / 32_767
    assert abs(pitch_of(audio, RATE) - (300 + 17 * number)) <= 2
    assert 0.08 < np.sqrt(np.mean(audio**2)) < 0.3  # of a sine of 0.3, on one channel or more, it is 0.21


def test_every_file_is_somewhere(outcome):
    clips, lines, _ = outcome
    seen = {name for name, kind in KINDS.items() if kind.reason != NOTHING}
    (deep,) = (name for name in lines if name.startswith(DEEP))
    others = {"gone.wav", "pipe.aiff", "turn.wav", "zero.wav", "disk", deep}
    assert set(clips) | set(lines) == seen | {"album/linked.wav", "zcopy.wav", *others}
    assert clips["album/linked.wav"] == 3
    expected = {
        "gone.wav": "No such file",
        "disk": "No such file",
        "pipe.aiff": "not a regular file",
        "zero.wav": "not a regular file",
        "turn.wav": "Too many levels of symbolic links",
        deep: "File name too long",
    }
    for name, reason in expected.items():
        assert lines[name] == [f"cannot be read: {reason}" + " or directory" * (reason == "No such file")]
    (same,) = lines["zcopy.wav"]
    assert "the same sound as" in same and same.endswith("plain.wav") and clips["plain.wav"] == 3


ROW = {"path": "a.wav", "duration": 1.0, "sample_rate": RATE, "caption": "a tone"}
LINE = json.dumps(ROW).encode() + b"\n"


def test_lists_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.wav").write_bytes(sound(tone_of(0)))
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + LINE.replace(b"\n", b"\r\n"))
    (item,) = sources.manifest(str(tmp_path / "x.jsonl"))
    assert isinstance(item, sources.SoundFile) and item.captions == ("a tone",)
    (tmp_path / "0123456789a.wav").write_bytes(sound(tone_of(0)))
    table = io.StringIO()
    csv.writer(table).writerows(
        [("ytid", "start_s", "end_s", "aspect_list", "caption"), ("0123456789a", 0, 10, "['low', 'slow']", "a\u2028b")]
    )
    (tmp_path / "x.csv").write_bytes(table.getvalue().encode("utf-8-sig"))  # as Excel writes it
    (item,) = sources.musiccaps(str(tmp_path / "x.csv"), str(tmp_path))
    assert isinstance(item, sources.SoundFile) and item.captions == ("a b", "low, slow")


@pytest.mark.parametrize("path", ["a\0b.wav", "x" * 300 + ".wav", ".", "/dev/zero", "gone.wav"])
def test_a_manifest_may_name_anything(tmp_path, path):
    (tmp_path / "x.jsonl").write_text(json.dumps(ROW | {"path": path}))
    request = Request("manifest", str(tmp_path / "x.jsonl"), quota=1.0)
    with pytest.raises(UserError, match="not a single clip"):
        build.prepare(request, tmp_path / "data" / "a" / "b", 1)
    (line,) = (tmp_path / "data" / "a" / "b" / "rejected.jsonl").read_text().splitlines()
    assert "cannot be read" in json.loads(line)["reason"]
