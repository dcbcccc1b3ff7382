"""Nothing is lost in silence: every odd file is used, or stands in rejected.jsonl with its reason."""

import csv
import io
import json
import os
import re

import pytest

from data_pipelines import build, sources
from data_pipelines.request import Request
from melody_jax.errors import UserError
from tests.data_pipelines.odd_inputs import KINDS, NOTHING, sound, tone_of
from tests.data_pipelines.tones import RATE


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """({file: clips}, {file: lines of rejected.jsonl}) of a folder with all kinds, links and pipes."""
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
    request = Request("folder", str(music), sample_rate=RATE, seconds=1.0, min_seconds=0.9, quota=1.0)
    prepared = build.prepare(request, root / "data", processes=1)
    clips = {
        os.path.relpath(chunk.work.name, music): sum(1 for _ in chunk.clips())
        for chunks in prepared.chunks.values()
        for chunk in chunks
    }
    lines = {}
    for line in (root / "data" / "rejected.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["reason"].startswith("called like"):  # the names of the table say what is odd, not what music it is
            continue
        lines.setdefault(os.path.relpath(row["path"], music), []).append(row["reason"])
    return clips, lines


@pytest.mark.parametrize("name", KINDS, ids=ascii)
def test_a_file_is_used_or_listed(outcome, name):
    clips, lines = outcome
    kind = KINDS[name]
    assert clips.get(name, 0) == kind.clips, lines.get(name)
    if kind.reason in ("", NOTHING):
        assert name not in lines
    else:
        (reason,) = lines[name]
        assert re.search(kind.reason, reason), reason
    assert "Error" not in "".join(lines.get(name, ())), "a fault of ours, not the file's"


def test_every_file_is_somewhere(outcome):
    clips, lines = outcome
    seen = {name for name, kind in KINDS.items() if kind.reason != NOTHING}
    assert set(clips) | set(lines) == seen | {"album/linked.wav", "zcopy.wav", "gone.wav", "pipe.aiff"}
    assert clips["album/linked.wav"] == 3
    assert "No such file" in lines["gone.wav"][0] and "not a regular file" in lines["pipe.aiff"][0]
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
