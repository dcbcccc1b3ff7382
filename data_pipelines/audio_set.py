"""The examples of captioned clips, and their TFRecord files, written by all hosts together."""

import array
import collections
import concurrent.futures
import functools
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from data_pipelines import inputs, read, records, staging
from data_pipelines.prepared import Prepared
from data_pipelines.request import Request
from data_pipelines.sharded import DataSet, Writing
from melody_jax import config as config_lib
from melody_jax import storage
from melody_jax.codes import controls
from melody_jax.files import publish
from melody_jax.parallel.share import ALONE, Share
from melody_jax.storage import Path

DESCRIPTION = "Clips of music with captions; see the metadata for where they come from."
# Files are many enough to be shared out, and none is too large; their number depends on the clips alone.
_FILES, _FEWEST, _FILE_BYTES = 64, 16, 1 << 28
_TEXT = tfds.features.Text()
NO_TRUTH = {
    "instruments": [], "family": "", "families": [], "tempo": 0.0, "key": "", "mode": "", "rhythm": "", "texture": "",
    "mood": [], "metre": "", "downbeat": np.nan, "notes": np.zeros((0, 4), np.float32),
}  # fmt: skip


def write(
    prepared: Prepared,
    request: Request,
    directory: Path,
    replaces: bool,
    share: Share = ALONE,
) -> None:
    """Makes a data set of what the chunks hold, and removes these.

    Clips stand in the order of hashes of their ids, as TFDS's own writer has it, so that neighbours are of different music.
    Every host computes all of it from the lists of what the chunks hold, and writes its share of the files.

    Args:
        directory: the version folder.
        replaces: it holds a finished data set. On a disk that one stands until this one is finished; in a bucket, where
            nothing is renamed, until the first file of this one is written.
        share: this host's.
    """
    places = {split: _places(split, chunks) for split, chunks in prepared.chunks.items()}
    counts = {split: len(place) for split, place in places.items() if len(place)}
    size = min(max(sum(counts.values()) // _FILES, _FEWEST), max(_FILE_BYTES // (2 * request.form.samples), 1))
    moved = replaces and not storage.in_bucket(directory)
    target = directory.with_name(f"unfinished-{directory.name}") if moved else directory
    sets = (DataSet("melody_audio", features(request.form.samples)),)
    made_of = prepared.content_hash() if share.first else ""
    writing = Writing(target, read.AUDIO_VERSION, sets, counts, size, made_of)
    if share.first:
        writing.begin()
    share.barrier()
    own = share.of(writing.chunks)

    def example(split: str, place: tuple[int, int, int]) -> dict[str, Any]:
        number, start, stop = place
        return _example(prepared.chunks[split][number].clip(start, stop))

    with (
        concurrent.futures.ThreadPoolExecutor(records.IN_FLIGHT) as pool,
        tqdm.tqdm(total=sum(file.stop - file.start for file in own), unit=" clips", desc="writing clips") as progress,
    ):
        for file in own:
            if not writing.has(file):
                here = places[file.split][file.start : file.stop].tolist()
                writing.write(file, pool.map(functools.partial(example, file.split), here))
            progress.update(file.stop - file.start)
    share.barrier()
    if share.first:
        prepared.write_inputs(target)
        writing.finish(_facts(prepared, request, made_of), DESCRIPTION)
        if isinstance(target, pathlib.Path) and moved:
            publish(target, directory, "metadata.json")
        storage.remove_folder(directory.parent / "staging")
    share.barrier()


def _places(split: str, chunks: Sequence[staging.Chunk]) -> np.ndarray:
    """int64 [clips, 3]: number of the chunk, and place in it, of every clip of a split in the stored order."""
    keys, places = bytearray(), array.array("q")
    for number, chunk in enumerate(chunks):
        for clip in chunk.clips():
            keys += hashlib.md5(f"{split}{clip['id']}".encode()).digest()
            places.extend((number, *clip["at"]))
    order = np.argsort(np.frombuffer(keys, "S16"), kind="stable")
    return np.frombuffer(places, np.int64).reshape(-1, 3)[order]


def _example(clip: dict[str, Any]) -> dict[str, Any]:
    """A clip of a chunk as `features` has it."""
    truth = clip["truth"] or NO_TRUTH
    told = clip.get("controls", [controls.UNKNOWN] * len(controls.SLOTS))
    return {
        **clip,
        "truth": {**truth, "notes": np.asarray(truth["notes"], np.float32).reshape(-1, 4)},
        "controls": np.asarray(told, np.int32),
    }


def _facts(prepared: Prepared, request: Request, id_: str) -> dict[str, Any]:
    """The metadata."""
    clips, tunes, licences = collections.Counter(), collections.defaultdict(set), set()
    for split, chunks in prepared.chunks.items():
        for clip in (clip for chunk in chunks for clip in chunk.clips()):
            clips[split] += 1
            tunes[split].add(clip["tune"])
            licences.add(clip["licence"])
    return {
        "id": id_,
        "inputs": inputs.hash_of(prepared.entries),
        "request": config_lib.to_dict(request),
        "sample_rate": request.sample_rate,
        "seconds": request.seconds,
        "seed": request.seed,
        "font": request.font or "TimGM6mb.sf2 (pretty_midi)" if request.kind == "corpus" else "",
        "clips": {split: clips[split] for split in prepared.chunks},
        "tunes": {split: len(tunes[split]) for split in prepared.chunks},
        "rejected": sum(item.start is None for item in prepared.rejected),
        "remarks": sum(item.start is not None for item in prepared.rejected),
        "licences": sorted(licences),
    }


def features(samples: int) -> tfds.features.FeaturesDict:
    """What an example holds; `samples` is T.

    The audio is raw little-endian int16 in the record: half the size of float32 and, unlike TFDS's own Audio feature
    (a list of varints), read at the speed of a copy. `truth` is empty (family "") for sound not rendered here; what the
    text beside such sound tells is in `controls`.
    """
    return tfds.features.FeaturesDict(
        {
            "id": _TEXT,
            "audio": tfds.features.Tensor(shape=(samples,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES),
            "captions": tfds.features.Sequence(_TEXT),
            "tune": _TEXT,
            "source": _TEXT,
            "licence": _TEXT,
            "controls": tfds.features.Tensor(shape=(len(controls.SLOTS),), dtype=np.int32),
            "truth": {
                "instruments": tfds.features.Sequence(_TEXT),
                "family": _TEXT,
                "families": tfds.features.Sequence(_TEXT),
                "tempo": tfds.features.Scalar(np.float32),
                "key": _TEXT,
                "mode": _TEXT,
                "rhythm": _TEXT,
                "texture": _TEXT,
                "mood": tfds.features.Sequence(_TEXT),
                "metre": _TEXT,
                "downbeat": tfds.features.Scalar(np.float32),
                "notes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32, encoding=tfds.features.Encoding.BYTES),
            },
        }
    )
