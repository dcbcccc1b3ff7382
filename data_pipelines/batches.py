"""Host-local NumPy batches, for training (resumable to the bit) and for evaluation. All data leave the package here.

The order is a function of the seed and the position alone (`record_source` says how), so the state of an iterator is
the number of examples given out: a file of a few bytes, and a restored iterator begins at that position without reading
what came before. tf.data's own checkpoints, even symbolic ones, hold the shuffle buffer: for 44 clips of 10 s and a
buffer of 40 they took 19 MB (symbolic) and 40 MB, and they grow with the buffer.
"""

import atexit
import contextlib
import dataclasses
import functools
import hashlib
import json
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from data_pipelines import mixture, read, tasks
from data_pipelines.converters import CONVERTERS, converter_of
from data_pipelines.record_source import RecordSource, Stream
from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.files import write_whole
from melody_jax.geometry import Geometry
from melody_jax.storage import Path
from melody_jax.train.stage import Stage

Where = Path | Mapping[Path, Any]
_AHEAD = 2  # finished batches kept ready
# Advice for a checkpoint whose position in the data is no longer valid.
_WAYS_ON = {
    "data": "the data set was made anew, or the mixture is another: bring the old one back, or go on with the weights at the "
    "beginning of the new one (--set loop.Run.restart_data=True, once)",
    "split": "take the old split again, or train in a new --model_dir with --init_from this one",
    "seed": "take the old seed again, or train in a new --model_dir with --init_from this one",
}


class Batches:
    """Endless training batches of one stage: this host's rows of every global batch.

    Every epoch has a new order. Epochs follow one another without a gap: a batch may hold the end of one and the
    beginning of the next, so that every example is seen equally often. The global batches are the same for any number
    of hosts.

    Args:
        task: made by `tasks.make_task` or in seqio's registry, or a seqio Mixture of these, whose rates are kept
          exactly (see `mixture`).
        lengths: {feature: length} of the batch's arrays along time.
        batch_size: of the global batch.
        seed: of the order, the crops and the choice of captions.
        split: of the data set.
        shard, shards: this host's number and the number of hosts.

    Raises:
        UserError: no such data set or split, clips shorter than `lengths`, or a batch that does not divide over the
          hosts.
    """

    def __init__(
        self,
        task: seqio.Task | seqio.Mixture,
        lengths: Mapping[str, int],
        batch_size: int,
        seed: int = 0,
        split: str = "train",
        shard: int = 0,
        shards: int = 1,
    ):
        self._batch_size = batch_size
        self._stream = functools.partial(endless, task, dict(lengths), batch_size, seed, split, shard, shards)
        # These must be equal for a position to mean the same example.
        self._identity = {"data": _identity_of(task), "split": split, "seed": seed}
        self._given = 0
        self._iterator = self._start(0)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """{feature: array [B / shards, ...]}: audio int16, latents float16, tokens int32.

        `parallel.batch` makes sound and latents float32 on the devices, so that half the bytes are sent.
        """
        batch = next(self._iterator)
        self._given += self._batch_size
        return batch

    def save(self, directory: Path) -> None:
        """Writes position.json (the same on every host) into `directory`."""
        write_whole(storage.path(directory) / "position.json", json.dumps({"examples": self._given, **self._identity}))

    def restore(self, directory: Path) -> None:
        """Continues after the last batch given out before `save`; the number of hosts may have changed.

        Raises:
            UserError: the position belongs to another data set, split or seed.
        """
        position = json.loads((storage.path(directory) / "position.json").read_text())
        for name, value in self._identity.items():
            if position[name] != value:
                raise UserError(
                    f"the checkpoint's {name} is {str(position[name])[:12]}, but this run's is {str(value)[:12]}; "
                    + _WAYS_ON[name]
                )
        self._given = position["examples"]
        self._iterator = self._start(self._given)

    def _start(self, position: int) -> Iterator[dict[str, np.ndarray]]:
        return _Arrays(self._stream(position=position))


def endless(
    task: seqio.Task | seqio.Mixture,
    lengths: Mapping[str, int],
    batch_size: int,
    seed: int = 0,
    split: str = "train",
    shard: int = 0,
    shards: int = 1,
    position: int = 0,
) -> tf.data.Dataset:
    """What `Batches` gives, from the example number `position` on, as a dataset.

    Raises:
        UserError: as `Batches`.
    """
    _check_shards(batch_size, shards)
    rows = batch_size // shards
    return _batched(_examples(task, lengths, split, Stream(position, rows), seed, shard, shards, True), rows)


def held_out(
    task: seqio.Task | seqio.Mixture,
    lengths: Mapping[str, int],
    batch_size: int,
    split: str = "validation",
    shard: int = 0,
    shards: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """One pass over `split` in its stored order, the same examples and crops every time; for evaluation.

    A Mixture gives as many examples as all its data sets have together, by its rates. The last incomplete global batch
    is dropped, so that every host gives the same number of batches. A split smaller than one batch is repeated to fill
    it.

    Raises:
        UserError: as `Batches`.
    """
    _check_shards(batch_size, shards)
    examples = sum(_source(one).num_input_examples(split) for one in _tasks_of(task)[0])
    count = max(1, examples // batch_size)
    rows = batch_size // shards
    dataset = _examples(task, lengths, split, Stream(0, rows), 0, shard, shards, False)
    return _Arrays(_batched(dataset.take(count * rows), rows))


def for_stage(
    stage: Stage, geometry: Geometry, directory: Where, *, tokenizer: str | None = None, **options: Any
) -> Batches:
    """`Batches` with the lengths and the batch size of a training stage.

    Args:
        directory: version folder of the audio or tokenised data set, or {folder: rate} of several.
        tokenizer: see `tasks.register`.
        options: seed, split, shard, shards of `Batches`.
    """
    task, lengths = _of_stage(stage, geometry, directory, tokenizer)
    return Batches(task, lengths, stage.batch_size, **options)


def held_out_for_stage(
    stage: Stage, geometry: Geometry, directory: Where, *, tokenizer: str | None = None, **options: Any
) -> Iterator[dict[str, np.ndarray]]:
    """`held_out` with the lengths and the batch size of a training stage; see `for_stage`.

    If the validation split is empty, as with a small folder of music, training clips are used, and a line says so.
    """
    task, lengths = _of_stage(stage, geometry, directory, tokenizer)
    split = options.pop("split", "validation")
    empty = [str(folder) for folder in _rates(directory) if not read.counts(folder).get(split)]
    if empty:
        print(
            f"{empty[0]}: no clips in split {split!r}; {stage.name} is evaluated on clips it trains on",
            file=sys.stderr,
        )
        split = "train"
    return held_out(task, lengths, stage.batch_size, split=split, **options)


def feature_lengths(stage: Stage) -> dict[str, int]:
    """{feature: length along time} of a training batch: seqio's `sequence_length`."""
    converter = CONVERTERS[stage.name]
    features = {*converter.TASK_FEATURES, *converter.OPTIONAL_FEATURES}
    return {name: shape.shape[1] for name, shape in stage.batch_shapes().items() if name in features}


def _of_stage(stage: Stage, geometry: Geometry, directory: Where, tokenizer: str | None):
    rates = _rates(directory)
    _check_alike(list(rates))
    made = {
        tasks.make_task(f"{stage.name}_here_{number:03d}", stage.name, folder, geometry, tokenizer): rate
        for number, (folder, rate) in enumerate(rates.items())
    }
    task = seqio.Mixture(f"{stage.name}_here", list(made.items())) if len(made) > 1 else next(iter(made))
    return task, feature_lengths(stage)


def _rates(directory: Where) -> Mapping[Path, Any]:
    return directory if isinstance(directory, Mapping) else {storage.path(directory): 1.0}


def _check_alike(directories: Sequence[Path]) -> None:
    """Tokens of a mixture mean the same only if the same parts made them."""
    facts = [read.metadata(directory) for directory in directories]
    for directory, other in zip(directories[1:], facts[1:]):
        for what in ("lineage", "geometry"):
            if other.get(what) != facts[0].get(what):
                raise UserError(f"{directory} and {directories[0]} have another {what} and cannot be mixed")


def _tasks_of(task: seqio.Task | seqio.Mixture) -> tuple[list[seqio.Task], tuple[int, ...]]:
    """The Tasks of a mixture, and weights in the ratio of their rates; of a Task itself."""
    if isinstance(task, seqio.Task):
        return [task], (1,)
    return task.tasks, mixture.whole_numbers([task.get_rate(one) for one in task.tasks])


def _identity_of(task: seqio.Task | seqio.Mixture) -> str:
    """The id of the data set; of a mixture a hash of its data sets' ids and weights."""
    members, weights = _tasks_of(task)
    ids = [read.metadata(_source(one).directory)["id"] for one in members]
    return ids[0] if len(ids) == 1 else hashlib.sha256(json.dumps([ids, weights]).encode()).hexdigest()


def _source(task: seqio.Task) -> RecordSource:
    if not isinstance(task.source, RecordSource):
        raise UserError(f"{task.name} has no RecordSource: an exact position needs random access to its records")
    return task.source


def _check_shards(batch_size: int, shards: int) -> None:
    if batch_size % shards:
        raise UserError(f"a global batch of {batch_size} does not divide over {shards} hosts")


def _examples(task, lengths, split, stream, seed, shard, shards, shuffle) -> tf.data.Dataset:
    """Converted examples of one host, without an end."""
    with contextlib.suppress(RuntimeError):  # raised where TensorFlow has already started
        tf.config.set_visible_devices([], "GPU")  # or it would take the accelerator's memory from JAX
    members, weights = _tasks_of(task)
    datasets, info = [], seqio.ShardInfo(shard, shards)
    for number, one in enumerate(members):
        own = dataclasses.replace(stream, weights=weights, number=number)
        dataset = one.replace(source=_source(one).streaming(own)).get_dataset(
            sequence_length=lengths,
            split=split,
            shuffle=shuffle,
            seed=seed,
            shard_info=info,
            trim_output_features=False,  # the preprocessors have cut everything to length
            try_in_mem_cache=False,  # a cache would repeat the first epoch's order, and the stream has no end
        )
        datasets.append(converter_of(lengths)(dataset, lengths))
    if len(datasets) == 1:
        return datasets[0]
    choices = dataclasses.replace(stream, weights=weights).choices(info)
    return tf.data.Dataset.choose_from_datasets(datasets, choices)


def _batched(dataset: tf.data.Dataset, rows: int) -> tf.data.Dataset:
    dataset = dataset.batch(rows, drop_remainder=True).prefetch(_AHEAD)
    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options)


class _Arrays(Iterator[dict[str, np.ndarray]]):
    """The elements of a dataset as numpy arrays, until Python ends.

    TensorFlow's threads read ahead by calling Python. An interpreter that is shutting down no longer answers them, but
    waits for them: a program that ends with an error would hang. So reading is ended first.
    """

    _open: "weakref.WeakSet[_Arrays]" = weakref.WeakSet()

    def __init__(self, dataset: Any):
        self._elements: Iterator[dict[str, np.ndarray]] = dataset.as_numpy_iterator()
        self._open.add(self)

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._elements)

    @staticmethod
    @atexit.register
    def _end() -> None:
        for arrays in list(_Arrays._open):
            arrays._elements = iter(())
