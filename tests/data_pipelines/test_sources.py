import csv
import gzip
import json

import pytest
import soundfile

from data_pipelines import build, decode, sources, splits
from data_pipelines.clip import Clip
from data_pipelines.sources import Rejection, SoundFile
from melody_jax.errors import UserError
from tests.data_pipelines.tones import tone


def _sound(path, seconds=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(440, seconds, 8_000), 8_000)


def test_folder_reads_captions_of_every_kind(tmp_path):
    for name in ("a.wav", "deep/b.flac", "c.wav", "d.wav", "e.wav"):
        _sound(tmp_path / name)
    (tmp_path / "a.txt").write_text("A slow waltz.\n\n  A waltz   for violin.  \n")
    (tmp_path / "deep/b.json").write_text(json.dumps({"captions": ["one", "two"], "license": "CC0"}))
    (tmp_path / "c.wav.json").write_text(
        json.dumps({"genre": "jazz", "moods": ["calm"], "instrument": "piano", "bpm": 90})
    )
    (tmp_path / "d.json").write_text("{broken")
    listed = {item.path.rsplit("/", 1)[1]: item for item in sources.folder(str(tmp_path), licence="CC BY")}
    assert listed["a.wav"].captions == ("A slow waltz.", "A waltz for violin.") and listed["a.wav"].licence == "CC BY"
    assert listed["b.flac"].captions == ("one", "two") and listed["b.flac"].licence == "CC0"
    assert listed["b.flac"].name == "deep/b.flac"
    assert listed["c.wav"].captions == ("jazz, calm, with piano, 90 bpm",)
    assert listed["c.wav"].tags == {"genre": "jazz", "moods": ["calm"], "instrument": "piano", "bpm": 90}
    assert listed["a.wav"].tags == {}
    assert isinstance(listed["d.wav"], Rejection) and "caption file is unreadable" in listed["d.wav"].reason
    assert isinstance(listed["e.wav"], Rejection) and listed["e.wav"].reason == "no caption"


def test_folder_without_music(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        sources.folder(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no sound files"):
        sources.folder(str(tmp_path))


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_audiocraft_manifest(tmp_path, name):
    _sound(tmp_path / "music/a.wav")
    _sound(tmp_path / "music/b.wav")
    (tmp_path / "music/a.json").write_text(json.dumps({"description": "A march.", "key": "D minor", "name": "x"}))
    rows = [
        {"path": "music/a.wav", "duration": 1.0, "sample_rate": 8000, "amplitude": None, "weight": None},
        {"path": "music/b.wav", "duration": 1.0, "sample_rate": 8000},
        {"path": "music/gone.wav", "duration": 1.0, "sample_rate": 8000},
    ]
    opener = gzip.open if name.endswith(".gz") else open
    with opener(tmp_path / name, "wt") as file:
        file.write("\n".join(json.dumps(row) for row in rows))
    first, second, third = sources.manifest(str(tmp_path / name))
    assert isinstance(first, SoundFile) and first.captions == ("A march.", "in D minor") and first.name == "music/a.wav"
    assert isinstance(second, Rejection) and second.reason == "no caption"
    assert isinstance(third, Rejection) and "No such file" in third.reason


@pytest.mark.parametrize("line", ["{broken", "[]", "{}", '{"path": 3}'])
def test_a_bad_manifest_line_is_named(tmp_path, line):
    (tmp_path / "data.jsonl").write_text(line)
    with pytest.raises(UserError, match=r"data\.jsonl, line 1"):
        sources.manifest(str(tmp_path / "data.jsonl"))


MUSICCAPS_COLUMNS = (
    "ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id",
    "is_balanced_subset", "is_audioset_eval",
)  # fmt: skip


def _musiccaps(tmp_path, rows):
    with open(tmp_path / "caps.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, MUSICCAPS_COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow(dict.fromkeys(MUSICCAPS_COLUMNS, "") | row)
    return sources.musiccaps(str(tmp_path / "caps.csv"), str(tmp_path / "clips"))


def test_bars_go_on_from_clip_to_clip(tmp_path):
    _sound(tmp_path / "a.wav", 3)
    file = SoundFile(str(tmp_path / "a.wav"), "a.wav", ("a song",), "folder", tags={"bpm": 96, "downbeat": 0.25})
    clips = [c for c in build.make_file_clips(file, decode.ClipFormat(8_000, 1.0, 0.5)) if isinstance(c, Clip)]
    assert [clip.controls.downbeat for clip in clips] == [0.25, -0.75, -1.75]


def test_musiccaps(tmp_path):
    _sound(tmp_path / "clips/-0Gj8-vB1q4.wav", 10)
    _sound(tmp_path / "clips/[_0SdAVK79lg]-[30-40].wav", 10)
    _sound(tmp_path / "clips/07rO1wDCq1s.wav", 70)
    row = {"start_s": "30", "end_s": "40", "aspect_list": "['low quality', \"singer's voice\"]", "caption": "A song."}
    listed = _musiccaps(
        tmp_path,
        [row | {"ytid": ytid} for ytid in ("-0Gj8-vB1q4", "_0SdAVK79lg", "07rO1wDCq1s", "missing0000")]
        + [row | {"ytid": "-0Gj8-vB1q4", "start_s": "soon"}],
    )
    assert listed[0].captions == ("A song.", "low quality, singer's voice")
    assert [(item.start, item.end) for item in listed[:3]] == 3 * [(30.0, 40.0)]
    form = decode.ClipFormat(8_000, 10.0, 9.5)
    made = [[clip.id for clip in build.make_file_clips(item, form) if isinstance(clip, Clip)] for item in listed[:3]]
    # The first two are the clip itself, whatever the table says; the third is the recording that it was cut from.
    assert [len(clips) for clips in made] == [1, 1, 1]
    assert [item.name for item in listed[:2]] == ["-0Gj8-vB1q4", "_0SdAVK79lg"]
    assert listed[3] == Rejection("missing0000", "no sound file of this ytid")
    assert isinstance(listed[4], Rejection) and "line 6" in listed[4].reason


def test_a_table_without_the_columns(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "caps.csv").write_text("id,text\n1,a\n")
    with pytest.raises(UserError, match="no column aspect_list, caption, end_s"):
        sources.musiccaps(str(tmp_path / "caps.csv"), str(tmp_path / "clips"))


def test_the_split_depends_on_the_name_alone():
    names = [f"tune {number}" for number in range(4_000)]
    first = {name: splits.split_of(name, 0.1, 0.2) for name in names}
    assert first == {name: splits.split_of(name, 0.1, 0.2) for name in reversed(names)}
    shares = {split: list(first.values()).count(split) / len(names) for split in splits.SPLITS}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.02)


def test_few_tunes_leave_no_split_empty():
    for count in range(1, 60):
        names = [f"own song {number}" for number in range(count)]
        given = splits.splits_of(names, 0.05, 0.05)
        assert given == splits.splits_of(reversed(names), 0.05, 0.05) and set(given) == set(names)
        assert set(given.values()) == set(splits.SPLITS[:count])
    many = [f"tune {number}" for number in range(2_000)]
    assert splits.splits_of(many) == {name: splits.split_of(name) for name in many}


def test_a_split_without_a_share_stays_empty():
    assert set(splits.splits_of("abcdefgh", 0.0, 0.3).values()) == {"train", "test"}
    assert set(splits.splits_of("abcdefgh", 0.0, 0.0).values()) == {"train"}
    # All would be held out: train comes first.
    assert sorted(splits.splits_of("abc", 0.5, 0.499).values()) == ["test", "train", "validation"]
