import concurrent.futures
import dataclasses
import hashlib
import json
import pathlib
import shutil
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
import tensorflow as tf
import tensorflow_datasets as tfds

from data_pipelines import build, decode, read
from data_pipelines.clip import Clip
from data_pipelines.ffmpeg import UnreadError
from data_pipelines.request import Request
from melody_jax import lock
from melody_jax.cli.main import main
from melody_jax.errors import UserError
from melody_jax.parallel.share import Share
from tests.buckets import refuse_directory_renames
from tests.data_pipelines.tones import RATE, pitch_of, tone, write_music


def _request(music, **changes):
    return Request("folder", str(music), **{"sample_rate": RATE, "seconds": 1.0, "min_seconds": 0.9} | changes)


def _bytes(directory):
    """Hash of every record file of a data set."""
    files = sorted(directory.glob("*.tfrecord*"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_clips_come_back_as_they_went_in(small_data):
    clips = [clip for split in read.counts(small_data) for clip in read.read_clips(small_data, split)]
    assert len(clips) == 46 and len({clip.id for clip in clips}) == 46
    for clip in clips:
        number = int(clip.tune[4:6])
        assert clip.audio.shape == (RATE,) and pitch_of(clip.audio, RATE) == pytest.approx(200 + 20 * number, abs=1.1)
        assert clip.captions == (f"tone number {number}", f"a sine of {200 + 20 * number} hertz")
        assert clip.source == "folder" and clip.truth is None
        assert clip.controls.tempo == 60 + 4 * number and clip.controls.metre == "3/4"
        assert clip.controls.key is None and clip.controls.instruments == ()


def test_no_file_stands_in_two_splits(small_data):
    tunes = [{clip.tune for clip in read.read_clips(small_data, split)} for split in ("train", "validation", "test")]
    assert all(tunes) and len(set.union(*tunes)) == sum(map(len, tunes)) == 23


def test_metadata_and_summary(small_data):
    facts = read.metadata(small_data)
    assert facts["sample_rate"] == RATE and facts["seconds"] == 1.0 and facts["seed"] == 0
    assert sum(facts["clips"].values()) == 46 and sum(facts["tunes"].values()) == 23
    assert "0.01 h of music" in read.summary(small_data)
    assert not (small_data.parent / "staging").exists()


BROKEN = ("empty.wav", "text.wav", "one.wav", "nan.wav", "silent.wav", "cut.wav", "nan8.wav", "mute.flac")


def _write_broken(folder):
    good = tone(300, 3, RATE)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("no sound")
    soundfile.write(folder / "one.wav", good[:1], RATE)
    soundfile.write(folder / "silent.wav", 0 * good, RATE)
    soundfile.write(folder / "cut.wav", good, RATE)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:-9_000])
    eight = np.repeat(good, 8, axis=1)
    eight[20_000, 5] = np.nan  # after two good clips, which must be taken back
    for name, audio in (("nan.wav", eight[:, 5:6]), ("nan8.wav", eight)):
        soundfile.write(folder / name, audio, RATE, "FLOAT")
    for name in BROKEN[:-1]:
        (folder / name).with_suffix(".txt").write_text("broken")
    soundfile.write(folder / "mute.flac", good, RATE)  # a good sound, but nobody says what it is
    partly = np.concatenate([good[:RATE], 0 * good[:RATE], good[:RATE]])
    soundfile.write(folder / "partly.wav", np.repeat(partly, 8, axis=1), RATE)
    (folder / "partly.txt").write_text("half silent, eight channels")


def test_broken_files_are_listed_and_good_ones_kept(tmp_path):
    music = write_music(tmp_path / "music", 4)
    _write_broken(music)
    directory = build.build("mixed", _request(music, quota=0.7), str(tmp_path / "data"), processes=1)
    rejected = [json.loads(line) for line in (directory.parent / "rejected.jsonl").read_text().splitlines()]
    reasons = {pathlib.Path(row["path"]).name: row["reason"] for row in rejected}
    assert set(reasons) == {*BROKEN, "partly.wav"}
    assert "empty" in reasons["empty.wav"] and "cannot be read" in reasons["text.wav"]
    assert "too short" in reasons["one.wav"] and "truncated" in reasons["cut.wav"]
    assert "NaN" in reasons["nan.wav"] and "NaN" in reasons["nan8.wav"]
    assert reasons["silent.wav"] == "silent" and reasons["mute.flac"] == "no caption"
    (partly,) = [row for row in rejected if row["path"].endswith("partly.wav")]
    assert partly["start"] == 1.0 and partly["reason"] == "silent"
    kept = [clip.id for split in read.counts(directory) for clip in read.read_clips(directory, split)]
    assert sorted(kept) == sorted(
        [f"tune{n:02d}.wav#{i:04d}" for n in range(4) for i in range(2)] + ["partly.wav#0000", "partly.wav#0002"]
    )


def test_too_many_rejects_fail_and_say_so(tmp_path):
    music = write_music(tmp_path / "music", 9)
    (music / "tune00.txt").unlink()
    with pytest.raises(UserError, match=r"1 of 9 files were rejected.*5\.0%.*no caption.*rejected\.jsonl"):
        build.prepare(_request(music), tmp_path / "data", 1)
    assert "no caption" in (tmp_path / "data" / "rejected.jsonl").read_text()
    assert build.prepare(_request(music, quota=0.12), tmp_path / "data", 1).works == 9


def test_the_same_bytes_whatever_the_number_of_workers(tmp_path, small_data):
    request = Request(**read.metadata(small_data)["request"])
    again = build.build("small", request, str(tmp_path), processes=2)
    assert _bytes(again) == _bytes(small_data)
    assert read.metadata(again)["id"] == read.metadata(small_data)["id"]
    for split, count in read.counts(again).items():  # opening it will read no record
        assert (again / f"{split}.index").stat().st_size == 8 * count


@pytest.mark.parametrize(("anew", "mounted"), [(False, True), (True, False), (True, True)])
def test_the_same_bytes_whatever_the_number_of_hosts(tmp_path, small_data, monkeypatch, anew, mounted):
    """Three hosts, which meet at every barrier; the data set is new, or takes the place of one of other music.

    On a mounted bucket no directory is renamed; what is new asks for none.
    """
    request = Request(**read.metadata(small_data)["request"])
    if anew:
        music = shutil.copytree(request.path, tmp_path / "music")
        request = dataclasses.replace(request, path=str(music))
        (music / "tune00.txt").write_text("said otherwise")
        build.build("small", request, str(tmp_path / "data"), processes=1)
        shutil.copy2(pathlib.Path(small_data.parents[2].parent) / "music" / "tune00.txt", music)
    asked = refuse_directory_renames(monkeypatch) if mounted else []
    meeting = threading.Barrier(3)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        shares = [Share(host, 3, lambda: meeting.wait(120) and None) for host in range(3)]
        hosts = [pool.submit(build.build, "small", request, str(tmp_path / "data"), 1, share) for share in shares]
        directory, *others = [host.result(120) for host in hosts]
    assert others == [directory] * 2 and (anew or not asked)
    assert _bytes(directory) == _bytes(small_data)
    assert read.metadata(directory) | {"request": 0, "inputs": 0} == read.metadata(small_data) | {
        "request": 0,
        "inputs": 0,
    }
    assert sorted(path.name for path in directory.iterdir()) == sorted(path.name for path in small_data.iterdir())
    assert sorted(path.name for path in directory.parent.iterdir()) == [read.AUDIO_VERSION, "lock", "rejected.jsonl"]


def test_a_record_has_the_same_bytes_in_every_process(small_data):
    """protobuf writes a map in an order of its own in each, unless it is told to sort."""
    stored, _ = read.open_split(small_data, "train")
    for record in stored.read(range(8)):
        assert tf.train.Example.FromString(record).SerializeToString(deterministic=True) == record


def _music(tmp_path):
    """Six tones, one of them silent in its middle."""
    music = write_music(tmp_path / "music", 6)
    partly = tone(700, 3, RATE)
    partly[RATE : 2 * RATE] = 0
    soundfile.write(music / "tune05.wav", partly, RATE)
    return music


def test_changed_music_is_made_anew_and_the_rest_is_kept(tmp_path, capsys, monkeypatch):
    music = _music(tmp_path)
    read_files = []
    clips_of = decode.clips_of
    monkeypatch.setattr(decode, "clips_of", lambda path, *rest: read_files.append(path) or clips_of(path, *rest))
    arguments = ("mine", _request(music), str(tmp_path / "data"), 1)
    first = build.build(*arguments)
    identity, times = read.metadata(first)["id"], {file.name: file.stat().st_mtime_ns for file in first.iterdir()}
    assert len(read_files) == 6 and not read_files.clear()
    assert build.build(*arguments) == first and not read_files
    assert {file.name: file.stat().st_mtime_ns for file in first.iterdir()} == times

    soundfile.write(music / "new.wav", tone(900, 2, RATE), RATE)
    (music / "new.txt").write_text("another")
    (music / "tune01.txt").write_text("said otherwise")
    soundfile.write(music / "tune02.wav", tone(950, 2, RATE), RATE)
    (music / "tune03.wav").unlink()
    capsys.readouterr()
    build.build(*arguments)
    said = capsys.readouterr().out
    assert "1 added: new.wav" in said and "1 gone: tune03.wav" in said and "tune01.wav (captions)" in said
    assert "2 changed" in said and "the clips of 3 of 6 files" in said and "Dataset" not in said
    assert sorted(pathlib.Path(path).name for path in read_files) == ["new.wav", "tune01.wav", "tune02.wav"]
    assert read.metadata(first)["id"] != identity
    fresh = build.build("mine", _request(music), str(tmp_path / "fresh"), 1)
    assert _bytes(first) == _bytes(fresh) and read.metadata(first)["id"] == read.metadata(fresh)["id"]
    assert (first.parent / "rejected.jsonl").read_text() == (fresh.parent / "rejected.jsonl").read_text() != ""

    for number in range(5):
        (music / f"bad{number}.wav").write_bytes(b"")
        (music / f"bad{number}.txt").write_text("bad")
    with pytest.raises(UserError, match="5 of 11 files were rejected"):
        build.build(*arguments)
    assert _bytes(first) == _bytes(fresh)  # the old one stands
    assert sorted(path.name for path in first.parent.iterdir() if path.name != "staging") == [
        read.AUDIO_VERSION, "lock", "rejected.jsonl",
    ]  # fmt: skip


def test_a_second_writer_waits(small_data, capsys, monkeypatch):
    monkeypatch.setattr(lock, "_WAIT_SECONDS", 0.01)
    held = lock.claim(small_data.parent / "lock")
    assert held is not None
    request = Request(**read.metadata(small_data)["request"])
    with concurrent.futures.ThreadPoolExecutor() as pool:
        second = pool.submit(build.build, "small", request, str(small_data.parents[2]))
        while "is writing it; waiting" not in capsys.readouterr().err:
            time.sleep(0.01)
        assert not second.done()
        held.close()
        assert second.result(60) == small_data


def test_without_tensorflow_it_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert main(["data", "folder", str(tmp_path), "--name", "x", "--data_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "`make install`" in error and "tensorflow_datasets" in error and error.count("\n") == 1


def test_another_request_of_the_same_name_is_refused(small_data):
    request = Request(**read.metadata(small_data)["request"] | {"seconds": 0.95})
    with pytest.raises(UserError, match=r"other settings \(seconds\)"):
        build.build("small", request, str(small_data.parents[2]))


def test_tfds_build_accepts_the_builder(tmp_path, small_data):
    """`tfds build data_pipelines/melody_audio.py --config ...`, without the beam that the command line imports."""
    from tensorflow_datasets.scripts.cli import build as tfds_build
    from tensorflow_datasets.scripts.cli import cli_utils

    script = pathlib.Path(build.__file__).with_name("melody_audio.py")
    config = {"name": "small", "request": read.metadata(small_data)["request"], "processes": 1}
    parse = cli_utils.make_flags_parser(tfds_build.Args, description="")
    parse(["", str(script), "--data_dir", str(tmp_path), "--config", json.dumps(config)]).execute()
    directory = read.audio_directory(str(tmp_path), "small")
    assert _bytes(directory) == _bytes(small_data)
    builder = tfds.builder_from_directory(directory)
    example = next(iter(tfds.as_numpy(builder.as_dataset(split="train"))))
    assert example["audio"].dtype == np.int16 and example["audio"].shape == (RATE,)


def test_a_silent_corpus_clip_is_rejected(monkeypatch):
    from data_pipelines.corpus import render

    monkeypatch.setattr(render, "render", lambda *args: Clip("a", np.zeros(800, np.float32), ("a",), "t", "corpus", ""))
    with pytest.raises(decode.UnusableError, match="silent"):
        list(build.make_corpus_clip(None, "", decode.ClipFormat(8_000, 0.1, 0.1)))


def test_the_command(tmp_path, capsys):
    music = write_music(tmp_path / "music", 2)
    args = ["data", "folder", str(music), "--name", "mine", "--data_dir", str(tmp_path / "data")]
    assert main([*args, "--seconds", "1", "--sample_rate", str(RATE), "--processes", "1"]) == 0
    assert "0.00 h of music" in capsys.readouterr().out
    assert sum(read.counts(read.audio_directory(str(tmp_path / "data"), "mine")).values()) == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("corpus --name x", "one of the arguments --hours --clips is required"),
        ("corpus --name x --clips 0", "at least 1 clip"),
        ("corpus --name x --hours 0.001", "less than one clip"),
        ("corpus --name x --clips 5 --font /no/such.sf2", "no such sound font"),
        ("corpus --name a/b --clips 5", "--name"),
        ("corpus --name x --clips many", "invalid int value"),
        ("folder /no/such/folder --name x", "no such folder"),
        ("manifest /no/such.jsonl --name x", "no such manifest"),
        ("musiccaps /no/such.csv --name x --audio /", "no such MusicCaps table"),
        ("musiccaps /no/such.csv --name x", "--audio"),
        ("folder . --name x --quota 2", "quota"),
        ("folder . --name x --validation 0.9 --test 0.1", "nothing to train on"),
        ("folder . --name x --seconds -1", "cannot be made"),
        ("folder . --name x --min_seconds 11", "min_seconds"),
        ("folder . --name x --processes 0", "--processes"),
        ("", "SOURCE"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(tmp_path, capsys, arguments, sentence):
    extra = ["--data_dir", str(tmp_path)] if arguments else []
    assert main(["data", *arguments.split(), *extra]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch, capsys):
    """Its size and time do not change when its owner may read it again, or when the network is back."""
    music, opened = write_music(tmp_path / "music", 4), decode.opened

    def refusing(path):
        if path.endswith("tune01.wav"):
            raise UnreadError("cannot be read: Permission denied")
        return opened(path)

    with monkeypatch.context() as patch:
        patch.setattr(decode, "opened", refusing)
        directory = build.build("x", _request(music, quota=0.5), str(tmp_path), processes=1)
        assert sum(read.counts(directory).values()) == 6
        assert "Permission denied" in (directory.parent / "rejected.jsonl").read_text()
    build.build("x", _request(music, quota=0.5), str(tmp_path), processes=1)
    assert "1 changed: tune01.wav (usable or not)" in capsys.readouterr().out
    assert sum(read.counts(directory).values()) == 8 and not (directory.parent / "rejected.jsonl").read_text()


def test_one_tune_in_two_formats_stands_in_one_split(tmp_path):
    """They sound alike, but no sample is the same."""
    music = write_music(tmp_path / "music", 12)
    for number in range(12):
        soundfile.write(music / f"tune{number:02d}.flac", tone(201 + 20 * number, 2.0, RATE), RATE)
    directory = build.build("x", _request(music, validation=0.3, test=0.3), str(tmp_path), processes=1)
    places = {}
    for split in read.counts(directory):
        for clip in read.read_clips(directory, split):
            places.setdefault(clip.tune.partition(".")[0], set()).add(split)
    assert len(places) == 12 and all(len(where) == 1 for where in places.values())
    rows = [json.loads(line) for line in (directory.parent / "rejected.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and all("called like" in row["reason"] for row in rows)


def test_what_is_passed_over_is_counted(tmp_path, capsys):
    music = write_music(tmp_path / "music", 3)
    for name in ("cover.jpg", "back.JPG", "score.mid", "notes"):
        (music / name).write_bytes(b"x")
    build.build("x", _request(music), str(tmp_path), processes=1)
    assert "passed over, no sound by their names: 2 .jpg, 1 without an ending, 1 .mid" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [b"{", b"{}", None])
def test_a_damaged_data_set_is_one_line(small_data, tmp_path, name, content):
    directory = pathlib.Path(shutil.copytree(small_data, tmp_path / "x" / small_data.name))
    if content is None:
        (directory / name).unlink()
    else:
        (directory / name).write_bytes(content)
    with pytest.raises(UserError, match="delete its folder and make it again|cannot be read"):
        read.open_split(directory, "train")
