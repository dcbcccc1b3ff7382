"""Data sets in a bucket: built from music there, read at random with many requests under way, tokenised from and to there."""

import concurrent.futures
import csv
import dataclasses
import http
import json
import threading

import numpy as np
import pytest

from data_pipelines import batches, build, precompute, read, records, tasks
from data_pipelines.corpus import sources as scores
from data_pipelines.request import Request
from melody_jax import storage
from melody_jax.cli.main import main
from melody_jax.errors import UserError
from melody_jax.parallel.share import Share
from tests.data_pipelines.test_tokens import BATCH, GEOMETRY, LINEAGE, encode
from tests.data_pipelines.tones import RATE, write_music


@pytest.fixture
def audio(gcs_folder, small_data):
    """The small data set, copied into the bucket."""
    folder = read.audio_directory(f"{gcs_folder}/data", "small")
    storage.upload(small_data, folder, list(storage.files_below(small_data)))
    return folder


def contents(directory):
    """Name -> bytes of all files but descriptions, which name folders."""
    names = [name for name in storage.files_below(directory) if not name.endswith(".json")]
    return {name: (directory / name).read_bytes() for name in names}


def music_of(folder):
    """A folder of music, and for `melody data` also a manifest and a MusicCaps table of it."""
    write_music(folder, 5)
    (folder / "list.jsonl").write_text("".join(json.dumps({"path": f"tune{n:02d}.wav"}) + "\n" for n in range(5)))
    with (folder / "caps.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ytid", "start_s", "end_s", "aspect_list", "caption"])
        rows.writerows([f"tune{n:02d}", 0, 2, "['a tone']", f"tone {n}"] for n in range(5))
    return folder


KINDS = {"folder": ("",), "manifest": ("list.jsonl",), "musiccaps": ("caps.csv", "--audio", "")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_data_set_of_music_in_the_bucket_is_built_there(kind, gcs_folder, tmp_path, capsys):
    """The bytes that disks give; again where its music has changed, with what has not been taken from the old one."""
    music = music_of(tmp_path / "music")

    def built(where, data_dir):
        path, *more = (word if word.startswith("--") else f"{where}/{word}".rstrip("/") for word in KINDS[kind])
        form = ["--seconds", "1", "--sample_rate", str(RATE), "--processes", "1", "--test", "0"]
        assert main(["data", kind, path, *more, "--name", "mine", "--data_dir", str(data_dir), *form]) == 0
        return read.audio_directory(str(data_dir), "mine")

    def same(ours, theirs):
        ours, theirs = (contents(folder) | {"id": read.metadata(folder)["id"]} for folder in (ours, theirs))
        assert ours.pop("inputs.jsonl") and theirs.pop("inputs.jsonl")  # which name folders and times
        assert ours == theirs

    storage.upload(music, gcs_folder / "music", list(storage.files_below(music)))
    directory, local = built(gcs_folder / "music", gcs_folder / "data"), built(music, tmp_path / "data")
    same(directory, local)
    kept = {name.split("/")[0] for name in storage.files_below(directory.parent)}
    assert kept == {read.AUDIO_VERSION, "lock", "rejected.jsonl"}

    for folder in (music, gcs_folder / "music"):
        (folder / "tune00.txt").write_text("said otherwise")
    capsys.readouterr()
    same(built(gcs_folder / "music", gcs_folder / "data"), built(music, tmp_path / "data"))
    said = capsys.readouterr().out
    assert said.count("tune00") == said.count("the clips of 4 of 5 files") == 2
    assert len(list(read.read_clips(directory, "train"))) > 0


def test_hosts_build_a_data_set_in_the_bucket_together(gcs, gcs_folder, small_data):
    """Three, one of which was killed before: what is staged is not made again."""
    request = Request(**read.metadata(small_data)["request"])
    directory = read.audio_directory(f"{gcs_folder}/data", "small")
    build.prepare(request, directory.parent, 1)
    staged = [name for name in gcs.objects if "/chunk-" in name]
    before = len(gcs.log)
    meeting = threading.Barrier(3)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        shares = [Share(host, 3, lambda: meeting.wait(120) and None) for host in range(3)]
        hosts = [pool.submit(build.build, "small", request, f"{gcs_folder}/data", 1, share) for share in shares]
        assert {host.result(120) for host in hosts} == {directory}
    assert contents(directory) == contents(small_data)
    assert len(staged) == 23 and not any(
        method == "POST" and name in path for method, path in gcs.log[before:] for name in staged
    )
    assert not storage.files_below(directory.parent / "staging")


def test_the_corpus_is_parsed_and_rendered_into_the_bucket(gcs_folder, tmp_path, monkeypatch):
    patterns = {"miscFolk": "north*.abc", "bach": "bwv26*.mxl"}
    named = [one for one in scores.COLLECTIONS if one.name in patterns]
    chosen = [dataclasses.replace(one, pattern=patterns[one.name]) for one in named]
    monkeypatch.setattr(scores, "chosen", lambda restricted: chosen)
    request = Request("corpus", clips=3, sample_rate=RATE, seconds=2.0, min_seconds=2.0, validation=0, test=0)
    ours, theirs = (build.build("scores", request, str(where), 1) for where in (gcs_folder / "data", tmp_path))
    assert contents(ours) == contents(theirs) and read.counts(ours) == {"train": 3}
    (parsed,) = (gcs_folder / "data" / "scores").glob("corpus-*.npz")
    assert parsed.read_bytes() == next((tmp_path / "scores").glob("corpus-*.npz")).read_bytes()


@pytest.mark.parametrize("fault", ["bucket", "right", "music", "scheme", "font"])
def test_what_cannot_be_built_in_a_bucket_is_said_first(fault, gcs, gcs_folder, tmp_path, capsys):
    music = write_music(tmp_path / "music", 1)
    where = {"bucket": "gs://another-bucket/data", "scheme": "s3://bucket/data"}.get(fault, f"{gcs_folder}/data")
    source = [str(gcs_folder / "none" if fault == "music" else music)]
    command = ["data", "folder", *source, "--name", "mine", "--data_dir", where]
    if fault == "font":
        command = [
            "data",
            "corpus",
            "--clips",
            "1",
            "--font",
            f"{gcs_folder}/x.sf2",
            "--name",
            "mine",
            "--data_dir",
            where,
        ]
    gcs.refusal = http.HTTPStatus.FORBIDDEN if fault == "right" else None
    assert main(command) == 2
    said = capsys.readouterr().err
    expected = {"bucket": "there is no bucket", "right": "no access", "music": "no such folder"}
    assert said.count("\n") == 1 and expected.get(fault, "is an address") in said, said
    gcs.refusal = None
    assert set(storage.files_below(gcs_folder)) <= {"data/melody_audio/mine/lock"}


def test_two_hosts_tokenise_from_and_to_the_bucket_what_one_does_on_disks(audio, small_data, gcs_folder, tmp_path):
    local = precompute.precompute(encode, small_data, str(tmp_path), "small", LINEAGE, GEOMETRY, BATCH)
    arguments = (encode, audio, f"{gcs_folder}/run", "small", LINEAGE, GEOMETRY, BATCH)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        barrier = threading.Barrier(2, timeout=120).wait
        hosts = [pool.submit(precompute.precompute, *arguments, Share(host, 2, barrier)) for host in range(2)]
        (directory,) = {host.result() for host in hosts}
    assert directory == read.tokens_directory(f"{gcs_folder}/run", "small") and storage.in_bucket(directory)
    assert contents(directory) == contents(local)
    assert read.metadata(directory)["id"] == read.metadata(local)["id"]
    assert precompute.precompute(encode, *arguments[1:]) == directory  # which is not made again

    given, resumed = (
        batches.Batches(tasks.make_task("bucket_dpd", "dpd", folder, GEOMETRY), {"semantic": 10, "latents": 40}, 4)
        for folder in (directory, local)
    )
    for _ in range(3):
        ours, theirs = next(given), next(resumed)
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    given.save(gcs_folder / "position")
    resumed.restore(gcs_folder / "position")
    assert np.array_equal(next(given)["latents"], next(resumed)["latents"])


def test_many_reads_are_under_way_at_a_time(gcs, audio, small_data):
    found, _ = read.open_split(audio, "train")
    expected, _ = read.open_split(small_data, "train")
    numbers = np.random.default_rng(0).integers(0, len(found), 200)
    gcs.most_under_way, gcs.together = 0, 64
    assert list(found.read(numbers)) == list(expected.read(numbers))
    assert gcs.most_under_way >= 64


def test_damage_is_said(gcs, audio):
    with pytest.raises(UserError, match="no finished data set here"):
        read.open_split(audio.parent / "none", "train")
    name = next(name for name in gcs.objects if "-train.tfrecord-" in name)
    data = gcs.objects[name].data
    gcs.put(name, data[:-9])
    with pytest.raises(UserError, match="cut short"):
        read.open_split(audio, "train")
    gcs.objects.pop(name)
    with pytest.raises(UserError, match="a file of the data set is missing"):
        read.open_split(audio, "train")
    gcs.put(name, data)
    gcs.objects.pop(next(name for name in gcs.objects if name.endswith("train.index")))
    found, _ = read.open_split(audio, "train")  # looked through, and the index kept
    assert isinstance(found, records.Records) and any(name.endswith("train.index") for name in gcs.objects)
