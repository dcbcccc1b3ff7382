import collections
import concurrent.futures
import json
import shutil
import threading
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import batches, precompute, read, records, tasks, tokens
from melody_jax.codes.controls import encode as encode_controls
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.parallel.share import Share
from tests.data_pipelines.tones import RATE

GEOMETRY = Geometry(
    sample_rate=RATE, hop=80, latent_channels=2, token_samples=320, clip_seconds=1.0, mulan_tokens=3, mulan_codes=50
)
LINEAGE = {"codes": "c" * 64, "autoencoder": "a" * 64}
BATCH = 4


def text_of(captions):
    """int [C, 3]: stands in for the codes of captions. Clips 0, 3, 6, ... have none, clips 1, 4, 7, ... one, the rest two."""
    number = int(captions[0].split()[-1]) if captions else 0
    numbers = [zlib.crc32(caption.encode()) for caption in captions[: number % 3]]
    return np.array([[number // 50**level % 50 for level in range(3)] for number in numbers]).reshape(-1, 3)


def encode(audio, captions):
    """Stands in for the models: everything follows from the clip's first frames and its captions."""
    assert len(captions) == BATCH
    assert audio.shape == (BATCH, GEOMETRY.clip_samples) and audio.dtype == np.float32
    frames = audio.reshape(BATCH, GEOMETRY.clip_frames, -1).mean(-1)
    per_token = frames.reshape(BATCH, GEOMETRY.clip_tokens, -1)
    return {
        "mulan": np.argsort(frames[:, :3], axis=1),
        "text": [text_of(clip) for clip in captions],
        "semantic": np.argmax(per_token, axis=-1) + 4 * np.arange(GEOMETRY.clip_tokens) % 1000,
        "latents": np.stack([frames, -frames], axis=-1),
    }


@pytest.fixture(scope="module")
def token_set(small_data, tmp_path_factory):
    data_dir = str(tmp_path_factory.mktemp("tokens"))
    return precompute.precompute(encode, small_data, data_dir, "small", LINEAGE, GEOMETRY, BATCH)


def test_tokens_are_those_of_the_clips(token_set, small_data):
    assert read.counts(token_set) == read.counts(small_data)
    for split in read.counts(small_data):
        clips = {clip.id: clip for clip in read.read_clips(small_data, split)}
        examples = list(tokens.read_tokens(token_set, split))
        assert {example["id"] for example in examples} == set(clips)
        for example in examples:
            clip = clips[example["id"]]
            expected = encode(np.repeat(clip.audio[None], BATCH, axis=0), [clip.captions] * BATCH)
            np.testing.assert_array_equal(example["mulan"], expected["mulan"][0])
            np.testing.assert_array_equal(example["semantic"], expected["semantic"][0])
            np.testing.assert_array_equal(example["latents"], expected["latents"][0].astype(np.float16))
            assert example["family"] == "" and example["latents"].dtype == np.float16
            assert (
                example["controls"].dtype == np.int32
                and example["controls"].tolist() == encode_controls(clip.controls).tolist()
            )
            assert example["controls"][0] > 0  # the tempo that stands beside each tone


def test_text_tokens_are_those_of_the_clips_captions(token_set, small_data):
    """Any number of captions, in their order; the music's tokens where there is none."""
    clips = {clip.id: clip for split in read.counts(small_data) for clip in read.read_clips(small_data, split)}
    counts = set()
    for split in read.counts(token_set):
        for example in tokens.read_tokens(token_set, split):
            expected = text_of(clips[example["id"]].captions)
            counts.add(len(expected))
            np.testing.assert_array_equal(example["text"], expected if len(expected) else example["mulan"][None])
            assert example["text"].dtype == np.int32
    assert counts == {0, 1, 2}


def test_tfds_reads_it(token_set):
    builder = tfds.builder_from_directory(token_set)
    example = next(iter(tfds.as_numpy(builder.as_dataset(split="train"))))
    assert example["mulan"].shape == (3,) and example["semantic"].dtype == np.int32
    latents = tfds.builder_from_directory(read.latents_directory(token_set)).as_dataset(split="train")
    rows = {row["semantic"].tobytes(): row["latents"].shape for row in tfds.as_numpy(latents)}
    assert rows[example["semantic"].tobytes()] == (100, 2)
    assert len(latents) == read.counts(token_set)["train"]


def test_the_language_model_does_not_read_latents(token_set, monkeypatch):
    taken = []
    read_ = records._Local.read
    monkeypatch.setattr(records._Local, "read", lambda *args: taken.append(read_(*args)) or taken[-1])
    task = tasks.make_task("small_lm", "lm", token_set, GEOMETRY)
    next(batches.Batches(task, {"mulan": 3, "text": 3, "semantic": 25}, 4))
    assert taken and not any(b"latents" in record for record in taken)


def test_lineage_is_kept_and_checked(token_set, small_data):
    opened = tokens.open_tokens(token_set, LINEAGE)
    assert opened.lineage == LINEAGE and opened.geometry == GEOMETRY
    with pytest.raises(UserError, match=r"made with autoencoder aaaaaaaaaaaa, but the one at hand is bbbbbbbbbbbb"):
        tokens.open_tokens(token_set, {"autoencoder": "b" * 64})
    with pytest.raises(UserError, match="not a tokenised data set"):
        tokens.open_tokens(small_data)


def test_existing_tokens_are_kept_or_made_anew(token_set, small_data, tmp_path, capsys):
    def never(audio, captions):
        raise AssertionError("nothing is left to do")

    arguments = (small_data, str(token_set.parents[2]), "small")
    assert precompute.precompute(never, *arguments, LINEAGE, GEOMETRY, BATCH) == token_set
    shutil.copytree(token_set.parents[2], tmp_path, dirs_exist_ok=True)
    other = precompute.precompute(
        encode, small_data, str(tmp_path), "small", LINEAGE | {"codes": "d" * 64}, GEOMETRY, BATCH
    )
    assert "made with another codes; made anew" in capsys.readouterr().out
    assert read.metadata(other)["lineage"]["codes"] == "d" * 64 and _records(other) == _records(token_set)

    facts = read.metadata(other)
    (other / "metadata.json").write_text(json.dumps(facts | {"source": "audio as it was"}))
    with pytest.raises(AssertionError, match="nothing is left"):
        precompute.precompute(never, small_data, str(tmp_path), "small", facts["lineage"], GEOMETRY, BATCH)
    assert "its audio data set has changed; made anew" in capsys.readouterr().out


def test_other_clips_than_the_geometrys_are_refused(small_data, tmp_path):
    with pytest.raises(UserError, match="clips of 1 s at 8000 Hz"):
        precompute.precompute(encode, small_data, str(tmp_path), "small", LINEAGE, Geometry(), BATCH)


def _records(directory):
    """Records and indices of both data sets, and whatever else is no description of them."""
    files = {file.relative_to(directory): file for file in directory.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in files.items() if name.suffix != ".json"}


def test_an_interrupted_run_goes_on_with_the_same_bytes(token_set, small_data, tmp_path):
    calls = []

    def interrupted(audio, captions):
        calls.append(len(audio))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return encode(audio, captions)

    with pytest.raises(KeyboardInterrupt):
        precompute.precompute(interrupted, small_data, str(tmp_path), "small", LINEAGE, GEOMETRY, BATCH)
    with pytest.raises(UserError, match="no finished data set"):
        read.counts(read.tokens_directory(str(tmp_path), "small"))
    calls.clear()

    def counted(audio, captions):
        calls.append(len(audio))
        return encode(audio, captions)

    directory = precompute.precompute(counted, small_data, str(tmp_path), "small", LINEAGE, GEOMETRY, BATCH)
    assert _records(directory) == _records(token_set)
    assert len(calls) < sum(-(-count // BATCH) for count in read.counts(small_data).values())
    assert sorted(path.name for path in directory.parent.iterdir()) == [read.TOKENS_VERSION, "lock"]


def test_two_hosts_make_what_one_makes(token_set, small_data, tmp_path):
    arguments = (encode, small_data, str(tmp_path), "small", LINEAGE, GEOMETRY, BATCH)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        barrier = threading.Barrier(2, timeout=60).wait
        hosts = [pool.submit(precompute.precompute, *arguments, Share(host, 2, barrier)) for host in range(2)]
        directories = {host.result() for host in hosts}
    assert len(directories) == 1 and _records(*directories) == _records(token_set)
    assert read.metadata(*directories)["id"] == read.metadata(token_set)["id"]


@pytest.mark.parametrize(
    ("stage", "lengths", "shapes"),
    [
        ("lm", {"mulan": 3, "text": 3, "semantic": 25}, {"mulan": (4, 3), "text": (4, 3), "semantic": (4, 25)}),
        (
            "lm",
            {"mulan": 3, "text": 3, "semantic": 9, "controls": 9},
            {"mulan": (4, 3), "text": (4, 3), "semantic": (4, 9), "controls": (4, 9)},
        ),
        ("dpd", {"semantic": 10, "latents": 40}, {"semantic": (4, 10), "latents": (4, 40, 2)}),
        (
            "dpd",
            {"semantic": 10, "latents": 40, "mulan": 3, "text": 3, "controls": 9},
            {"semantic": (4, 10), "latents": (4, 40, 2), "mulan": (4, 3), "text": (4, 3), "controls": (4, 9)},
        ),
    ],
)
def test_batches_of_tokens(token_set, stage, lengths, shapes):
    task = tasks.make_task(f"small_{stage}", stage, token_set, GEOMETRY)
    batch = next(batches.Batches(task, lengths, 4))
    assert {name: array.shape for name, array in batch.items()} == shapes
    dtypes = dict.fromkeys(("mulan", "text", "semantic", "controls"), np.int32) | {"latents": np.float16}
    assert all(array.dtype == dtypes[name] for name, array in batch.items())
    if "controls" in shapes:
        stored = {(*row["mulan"], *row["controls"]) for row in tokens.read_tokens(token_set, "train")}
        assert {(*mulan, *controls) for mulan, controls in zip(batch["mulan"], batch["controls"])} <= stored
    if stage == "dpd":  # the tokens were made from the frames below them
        frames = batch["latents"][..., 0].reshape(4, 10, 4)
        np.testing.assert_array_equal(np.argmax(frames, axis=-1), batch["semantic"] % 4)


def _epochs(token_set, seed):
    """For two epochs, how often each (mulan, semantic, text) was given."""
    task = tasks.make_task("small_lm", "lm", token_set, GEOMETRY)
    stream = batches.Batches(task, {"mulan": 3, "text": 3, "semantic": 25}, 1, seed=seed)
    count = read.counts(token_set)["train"]
    given = [next(stream) for _ in range(2 * count)]
    rows = [tuple(batch[name][0].tobytes() for name in ("mulan", "semantic", "text")) for batch in given]
    return [collections.Counter(rows[:count]), collections.Counter(rows[count:])]


def test_each_epoch_takes_one_caption_of_each_clip_by_the_seed(token_set):
    stored = list(tokens.read_tokens(token_set, "train"))
    music = [(example["mulan"].tobytes(), example["semantic"].tobytes()) for example in stored]
    possible = {(*key, text.tobytes()) for key, example in zip(music, stored) for text in example["text"]}
    first, second = _epochs(token_set, seed=3)
    for epoch in (first, second):
        assert collections.Counter(row[:2] for row in epoch.elements()) == collections.Counter(music)
        assert set(epoch) <= possible
    assert first != second  # both have every clip once: only the captions can differ
    assert _epochs(token_set, seed=3) == [first, second]
    assert _epochs(token_set, seed=4)[0] != first


def test_nothing_to_write_is_refused(tmp_path):
    with pytest.raises(UserError, match="no clips"):
        tokens.finish(tokens.writing(tmp_path, GEOMETRY, {"train": 0}, 1, []), GEOMETRY, LINEAGE, "")


def test_latents_that_are_no_numbers_are_refused(small_data, tmp_path):
    def broken(audio, captions):
        found = encode(audio, captions)
        return found | {"latents": np.where(found["latents"] > 0, np.nan, found["latents"])}

    with pytest.raises(UserError, match="the latents of clip tune.* are no numbers"):
        precompute.precompute(broken, small_data, str(tmp_path), "small", LINEAGE, GEOMETRY, BATCH)
    assert not (read.tokens_directory(str(tmp_path), "small") / "metadata.json").is_file()
