"""Data sets in a bucket: read at random with many requests under way, tokenised from there and to there."""

import concurrent.futures
import threading

import numpy as np
import pytest

from data_pipelines import batches, precompute, read, records, tasks
from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.parallel.share import Share
from tests.data_pipelines.test_tokens import BATCH, GEOMETRY, LINEAGE, encode


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
