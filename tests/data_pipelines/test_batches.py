import collections
import dataclasses
import json
import shutil
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import seqio
import soundfile
import tensorflow as tf

from data_pipelines import batches, build, read, records, tasks
from data_pipelines.request import Request
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.parallel.batch import place_batch, widened
from melody_jax.parallel.mesh import make_mesh
from tests.data_pipelines.tones import RATE, pitch_of, tone

GEOMETRY = Geometry(sample_rate=RATE, hop=80, latent_channels=2, token_samples=320, clip_seconds=1.0)
LENGTHS = {"audio": 400}


@pytest.fixture(scope="module")
def task(small_data):
    return tasks.make_task("small_autoencoder", "autoencoder", small_data, GEOMETRY)


def _take(iterator, count):
    return [next(iterator)["audio"].copy() for _ in range(count)]


def _examples(task, count):
    """Ids in the order of a stream, without crops."""
    source = task.source.streaming(batches.Stream())
    source.fields = ("id",)
    return [example["id"].decode() for example in source.get_dataset("train", True, 0).take(count).as_numpy_iterator()]


def test_batches_are_what_the_stage_expects(task):
    batch = next(batches.Batches(task, LENGTHS, 4))
    assert set(batch) == {"audio"} and batch["audio"].shape == (4, 400) and batch["audio"].dtype == np.int16
    (placed,) = place_batch(batch, make_mesh("data=4", devices=jax.devices()[:4])).values()
    assert placed.dtype == np.float32 and 0.29 < np.abs(placed).max() < 0.31  # the tones have level 0.3
    np.testing.assert_array_equal(placed, batch["audio"] / np.float32(32768))
    np.testing.assert_array_equal(placed, widened(batch)["audio"])


def test_the_order_follows_from_the_seed(task):
    first, same, other = (_take(batches.Batches(task, LENGTHS, 4, seed=seed), 5) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other))


def test_every_epoch_holds_every_clip_once_in_a_new_order(task, small_data):
    count = read.counts(small_data)["train"]
    ids = _examples(task, 3 * count)
    epochs = [ids[start : start + count] for start in range(0, 3 * count, count)]
    assert all(len(set(epoch)) == count for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_crops_differ_between_epochs(task, small_data):
    count = read.counts(small_data)["train"]
    crops = np.concatenate(_take(batches.Batches(task, LENGTHS, 1), 2 * count))
    assert len(np.unique(crops, axis=0)) > 1.5 * count


@pytest.mark.parametrize("shards", [2, 4])
def test_hosts_share_the_same_global_batches(task, shards):
    whole = _take(batches.Batches(task, LENGTHS, 8), 9)  # more than an epoch
    hosts = [_take(batches.Batches(task, LENGTHS, 8, shard=shard, shards=shards), 9) for shard in range(shards)]
    np.testing.assert_array_equal(whole, [np.concatenate(rows) for rows in zip(*hosts)])


@pytest.fixture
def late(monkeypatch):
    """Reads are answered late, each by another time: the order of answers is not that of questions."""
    at_once, rng = records.Records._read, np.random.default_rng(0)
    delays = rng.uniform(0, 0.02, 997).tolist()
    monkeypatch.setattr(
        records.Records, "_read", lambda self, number: time.sleep(delays[number % 997]) or at_once(self, number)
    )


@pytest.mark.parametrize(("shards", "start"), [(1, 0), (2, 0), (2, 88), (4, 1000 * 8)])
def test_reads_beside_one_another_keep_the_sequential_order(task, small_data, late, shards, start):
    """Ids and seeds of every host are those of one loop over positions, also after a restart at `start`."""
    stored = [clip.id for clip in read.read_clips(small_data, "train")]
    count, rows, seed = len(stored), 8 // shards, 5
    expected = []
    for position in range(start, start + 8 * 9):  # more than an epoch
        order = np.random.default_rng((seed, position // count)).permutation(count)
        expected.append((stored[order[position % count]], (seed, position)))
    given = []
    for shard in range(shards):
        source = task.source.streaming(batches.Stream(start, rows))
        source.fields = ("id",)
        stream = source.get_dataset("train", True, seed, seqio.ShardInfo(shard, shards)).take(9 * rows)
        given.append([(row["id"].decode(), tuple(row["seed"].tolist())) for row in stream.as_numpy_iterator()])
    whole = [row for turn in range(9) for host in given for row in host[turn * rows : (turn + 1) * rows]]
    assert whole == expected


@pytest.fixture(scope="module")
def other_data(tmp_path_factory):
    """Another data set, of higher tones."""
    root = tmp_path_factory.mktemp("other")
    for number in range(5):
        soundfile.write(root / f"high{number}.wav", tone(2000 + 100 * number, 1.0, RATE), RATE)
        (root / f"high{number}.txt").write_text("a high tone")
    request = Request("folder", str(root), sample_rate=RATE, seconds=1.0, min_seconds=0.9, validation=0.2, test=0)
    return build.build("other", request, str(root / "data"), processes=1)


@dataclasses.dataclass(frozen=True)
class WholeClips:
    """A stage that reads whole clips, so that crops are no matter of chance."""

    batch_size: int = 8
    name = "semantic"

    def batch_shapes(self):
        return {"audio": jax.ShapeDtypeStruct((self.batch_size, RATE), np.float32)}


def test_a_mixture_keeps_its_rates_and_the_order_of_its_data_sets(small_data, other_data, tmp_path):
    rates = {small_data: 0.75, other_data: 0.25}

    def mixed(rates=rates, **options):
        return batches.for_stage(WholeClips(), GEOMETRY, rates, seed=3, **options)

    def rows(iterator, count):
        return np.concatenate(_take(iterator, count))

    whole = mixed()
    first = rows(whole, 5)
    high = np.asarray([pitch_of(row, RATE) > 1900 for row in first])
    assert high.sum() == 10 and high.reshape(10, 4).sum(axis=1).tolist() == [1] * 10
    for directory, mine in {small_data: first[~high], other_data: first[high]}.items():
        alone = rows(batches.for_stage(WholeClips(), GEOMETRY, directory, seed=3), 5)
        np.testing.assert_array_equal(mine, alone[: len(mine)])
    whole.save(tmp_path)
    following = rows(whole, 3)
    hosts = [mixed(shard=shard, shards=2) for shard in range(2)]
    for host in hosts:
        host.restore(tmp_path)
    again = np.concatenate([rows(host, 1) for _ in range(3) for host in hosts])
    np.testing.assert_array_equal(again, following)
    with pytest.raises(UserError, match="or the mixture is another"):
        mixed({small_data: 0.5, other_data: 0.5}).restore(tmp_path)
    held_out = list(batches.held_out_for_stage(WholeClips(4), GEOMETRY, rates))
    assert len(held_out) == sum(read.counts(directory)["validation"] for directory in rates) // 4


def test_tokens_of_other_parts_are_not_mixed(small_data, other_data, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(other_data, changed)
    (changed / "metadata.json").write_text(json.dumps(read.metadata(other_data) | {"lineage": {"codes": "x"}}))
    with pytest.raises(UserError, match="have another lineage and cannot be mixed"):
        batches.for_stage(WholeClips(), GEOMETRY, {small_data: 0.5, changed: 0.5})


def test_hosts_that_do_not_divide_the_batch_are_refused(task):
    with pytest.raises(UserError, match="8 does not divide over 3 hosts"):
        batches.Batches(task, LENGTHS, 8, shards=3)


def test_seqio_itself_gives_one_epoch_disjoint_and_complete(task, small_data):
    count = read.counts(small_data)["train"]
    rows = []
    for index in range(3):
        shard = seqio.ShardInfo(index, 3)
        dataset = task.get_dataset(LENGTHS, "train", shuffle=True, seed=3, shard_info=shard, try_in_mem_cache=False)
        rows += [tuple(example["seed"]) for example in dataset.as_numpy_iterator()]
    assert sorted(rows) == [(3, position) for position in range(count)]


ENDING = """
import pathlib, sys, time
from data_pipelines import batches, records, tasks
from tests.data_pipelines.test_batches import GEOMETRY, LENGTHS

read = records.Records._read
records.Records._read = lambda *args: time.sleep(0.3) or read(*args)  # some are under way whenever the program ends
source = batches.Batches(tasks.make_task("ending", "autoencoder", pathlib.Path(sys.argv[1]), GEOMETRY), LENGTHS, 16)
next(source)
raise RuntimeError("out of memory, say")
"""


def test_a_program_that_an_error_ends_while_batches_are_read_ahead_does_end(small_data):
    ended = subprocess.run([sys.executable, "-c", ENDING, small_data], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1 and ended.stderr.rstrip().endswith("RuntimeError: out of memory, say")


@pytest.mark.parametrize("before", [0, 9])
def test_restored_batches_are_the_uninterrupted_ones(task, tmp_path, before):
    whole = batches.Batches(task, LENGTHS, 4, seed=5)
    _take(whole, before)
    whole.save(tmp_path)
    expected = _take(whole, 5)
    resumed = batches.Batches(task, LENGTHS, 4, seed=5)
    _take(resumed, 2)
    resumed.restore(tmp_path)
    np.testing.assert_array_equal(_take(resumed, 5), expected)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 500


def test_restore_far_away_takes_no_time(task, tmp_path):
    batches.Batches(task, LENGTHS, 4).save(tmp_path)
    position = json.loads((tmp_path / "position.json").read_text())
    (tmp_path / "position.json").write_text(json.dumps(position | {"examples": 10**12}))
    resumed = batches.Batches(task, LENGTHS, 4)
    started = time.process_time()
    resumed.restore(tmp_path)
    next(resumed)
    assert time.process_time() - started < 5  # reading up to there would take weeks


def test_a_run_goes_on_with_another_number_of_hosts(task, tmp_path):
    one = batches.Batches(task, LENGTHS, 4)
    _take(one, 3)
    one.save(tmp_path)
    hosts = [batches.Batches(task, LENGTHS, 4, shard=shard, shards=2) for shard in range(2)]
    for host in hosts:
        host.restore(tmp_path)
    np.testing.assert_array_equal(np.concatenate([next(host)["audio"] for host in hosts]), next(one)["audio"])


@pytest.mark.parametrize("change", [{"seed": 6}, {"split": "validation"}])
def test_a_position_of_another_run_is_refused(task, tmp_path, change):
    batches.Batches(task, LENGTHS, 4, seed=5).save(tmp_path)
    with pytest.raises(UserError, match=next(iter(change))):
        batches.Batches(task, LENGTHS, 4, **{"seed": 5} | change).restore(tmp_path)


def test_held_out_batches_are_fixed_and_end(task, small_data):
    count = read.counts(small_data)["validation"]
    first, second = (list(batches.held_out(task, LENGTHS, 4)) for _ in range(2))
    assert len(first) == count // 4
    np.testing.assert_array_equal([b["audio"] for b in first], [b["audio"] for b in second])
    hosts = [list(batches.held_out(task, LENGTHS, 4, shard=shard, shards=2)) for shard in range(2)]
    joined = [np.concatenate([a["audio"], b["audio"]]) for a, b in zip(*hosts, strict=True)]
    np.testing.assert_array_equal(joined, [b["audio"] for b in first])


def test_a_split_that_fills_no_batch_is_repeated(task, small_data):
    count = read.counts(small_data)["validation"]
    (batch,) = batches.held_out(task, LENGTHS, 2 * count)
    assert batch["audio"].shape[0] == 2 * count
    (again,) = batches.held_out(task, LENGTHS, 2 * count)
    np.testing.assert_array_equal(again["audio"], batch["audio"])


def test_unknown_data_and_splits_are_one_sentence(small_data, task):
    nowhere = tasks.make_task("x_codes", "codes", small_data / "nowhere", GEOMETRY)
    with pytest.raises(UserError, match="no finished data set here"):
        batches.Batches(nowhere, LENGTHS, 4)
    with pytest.raises(UserError, match="no clips in split 'dev', only in"):
        batches.Batches(task, LENGTHS, 4, split="dev")
    with pytest.raises(UserError, match="holds only 8000"):
        batches.Batches(task, {"audio": 8001}, 4)


def test_captions_belong_to_their_clips(small_data):
    """A tone's caption names its pitch, which the spectrum of its audio shows."""
    task = tasks.make_task("small_mulan", "mulan", small_data, GEOMETRY)
    vocabulary = task.output_features["text_tokens"].vocabulary
    tokens = {}
    for clip in read.read_clips(small_data, "train"):
        tokens |= {tuple(vocabulary.padded(caption, 12)): clip.captions for caption in clip.captions}
    chosen = collections.Counter()
    for batch in [next(b) for b in [batches.Batches(task, {"audio": RATE, "text_tokens": 12}, 8)] for _ in range(8)]:
        assert batch["text_tokens"].dtype == np.int32
        for audio, ids in zip(batch["audio"], batch["text_tokens"]):
            captions = tokens[tuple(ids)]
            pitch = np.argmax(np.abs(np.fft.rfft(audio)))
            assert captions[1] == f"a sine of {pitch} hertz"
            chosen[captions.index(next(c for c in captions if tuple(vocabulary.padded(c, 12)) == tuple(ids)))] += 1
    assert set(chosen) == {0, 1}


@dataclasses.dataclass(frozen=True)
class SmallStage:
    """As much of a training stage as the data needs."""

    batch_size: int = 4
    name = "semantic"

    def batch_shapes(self):
        return {"audio": jax.ShapeDtypeStruct((self.batch_size, 960), np.float32)}


def test_a_stage_says_what_it_needs(small_data):
    training = batches.for_stage(SmallStage(), GEOMETRY, small_data, seed=1, shard=1, shards=2)
    assert next(training)["audio"].shape == (2, 960)
    assert next(batches.held_out_for_stage(SmallStage(), GEOMETRY, small_data))["audio"].shape == (4, 960)


def test_registered_tasks_are_seqios(small_data):
    for _ in range(2):  # registering again replaces
        registered = tasks.register("small", GEOMETRY, audio=small_data)
    assert set(registered) == set(tasks.AUDIO_STAGES)
    dataset = seqio.get_mixture_or_task("small_codes").get_dataset(LENGTHS, "validation", shuffle=False)
    assert len(list(dataset)) == read.counts(small_data)["validation"]


def _record_file(path, sizes):
    with tf.io.TFRecordWriter(str(path)) as file:
        for size in sizes:
            file.write(bytes([size]) * size)
    return str(path)


@pytest.fixture
def three_files(tmp_path):
    sizes = [[1, 2, 3], [], [200, 5] * 100]
    paths = [_record_file(tmp_path / str(number), each) for number, each in enumerate(sizes)]
    return paths, [len(each) for each in sizes], tmp_path / "train.index"


def test_at_least_64_reads_are_under_way(three_files, monkeypatch):
    together, at_once = threading.Barrier(64, timeout=20), records.Records._read
    monkeypatch.setattr(records.Records, "_read", lambda self, number: (together.wait() >= 0) and at_once(self, number))
    read_ = records.Records(*three_files).read(range(128))
    assert [len(record) for record in read_] == [1, 2, 3, *([200, 5] * 63)[:125]]


@pytest.mark.parametrize("allowed", [3, 1000])  # files that may stay open: none of the three, all
def test_an_index_is_made_once_and_answers_for_the_files(three_files, monkeypatch, allowed):
    paths, lengths, index = three_files
    monkeypatch.setattr(records, "_most_open_files", lambda: allowed)
    sizes = [1, 2, 3, *[200, 5] * 100]
    for _ in range(2):
        made = records.Records(*three_files)
        assert [len(record) for record in made.read(range(len(made)))] == sizes
        assert index.stat().st_size == 8 * len(sizes)
        assert next(made.read([4])) == bytes([5]) * 5
        monkeypatch.setattr(records, "_ends", None)  # nothing is looked for again
    monkeypatch.undo()
    _record_file(paths[2], [7, 7] * 100)  # as many records, of other lengths
    made = records.Records(*three_files)
    assert [len(record) for record in made.read(range(len(made)))] == [1, 2, 3, *[7] * 200]
    assert np.fromfile(index, "<u8")[-1] == 200 * (16 + 7)


def test_a_folder_that_cannot_be_written_is_read_all_the_same(three_files, tmp_path):
    paths, lengths, _ = three_files
    made = records.Records(paths, lengths, tmp_path / "gone" / "train.index")
    assert len(next(made.read([3]))) == 200
    assert len(records.Records([], [])) == 0


def test_records_of_damaged_files_are_refused(small_data, tmp_path):
    file, *others = sorted(small_data.glob("*train.tfrecord*"))
    count = read.counts(small_data)["train"] - sum(len(list(tf.data.TFRecordDataset(str(other)))) for other in others)
    assert len(records.Records([str(file)], [count])) == count
    with pytest.raises(UserError, match="holds"):
        records.Records([str(file)], [count + 1])
    cut = tmp_path / file.name
    cut.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="cut short"):
        records.Records([str(cut)], [count])
    with pytest.raises(UserError, match="missing"):
        records.Records([str(tmp_path / "gone")], [count])
