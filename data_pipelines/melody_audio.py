"""The TFDS data set of captioned clips.

    melody data corpus --name tiny --hours 3
    tfds build data_pipelines/melody_audio.py --data_dir data \
        --config '{"name": "mine", "request": {"kind": "folder", "path": "/home/me/music"}}'

Both make the same bytes under DATA_DIR/melody_audio/NAME/1.2.0, in TFRecord files.
"""

import collections
import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import build, inputs, read, replacing, writing
from data_pipelines.request import Request
from melody_jax import config as config_lib
from melody_jax.codes import controls

_TEXT = tfds.features.Text()
NO_TRUTH = {
    "instruments": [], "family": "", "families": [], "tempo": 0.0, "key": "", "mode": "", "rhythm": "", "texture": "",
    "mood": [], "metre": "", "downbeat": np.nan, "notes": np.zeros((0, 4), np.float32),
}  # fmt: skip


@dataclasses.dataclass(eq=False)
class MelodyAudioConfig(tfds.core.BuilderConfig):
    """A data set's name and what it is made of.

    Attributes:
        request: also as a plain dict, which is what `tfds build --config '{...}'` gives.
        processes: how many to use; no part of what is made. None takes all cores.
    """

    request: Request | dict[str, Any] = dataclasses.field(default_factory=lambda: Request("corpus", clips=1080))
    processes: int | None = None

    def __post_init__(self):
        if isinstance(self.request, dict):
            self.request = config_lib.from_dict(Request, self.request)


class MelodyAudio(writing.Builder):
    """Clips of music with captions and, for the built-in corpus, the ground truth."""

    VERSION = tfds.core.Version(read.AUDIO_VERSION)
    BUILDER_CONFIGS = [
        MelodyAudioConfig(name="corpus_48", request=Request("corpus", clips=48)),
        MelodyAudioConfig(name="corpus_3h", request=Request("corpus", clips=1080)),
    ]
    builder_config_cls = MelodyAudioConfig
    prepared: "build.Prepared | None" = None
    """What to write, where it is staged already."""

    @property
    def request(self) -> Request:
        """What this data set is made of."""
        config: Any = self.builder_config
        return config.request

    def download_and_prepare(self, **kwargs) -> None:
        """As TFDS's own; stages first what has not been staged yet, and clears the stage after a finished build."""
        directory = pathlib.Path(self.data_path).parent
        with contextlib.ExitStack() as stack:
            if self.prepared is None and not self.is_prepared():  # `tfds build`
                stack.enter_context(replacing.sole_writer(pathlib.Path(self.data_path)))
                config: Any = self.builder_config
                self.prepared = build.prepare(self.request, directory, config.processes)
            super().download_and_prepare(**kwargs)
            shutil.rmtree(directory / "staging", ignore_errors=True)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Clips of music with captions; see the metadata for where they come from.",
            features=features(self.request.form.samples),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        del dl_manager  # nothing is downloaded
        prepared = self.prepared
        assert prepared is not None
        prepared.write_inputs(pathlib.Path(self.data_path))  # TFDS's temporary folder, which becomes the data set
        clips, tunes, licences = collections.Counter(), collections.defaultdict(set), set()
        for split, chunks in prepared.chunks.items():
            for clip in (clip for chunk in chunks for clip in chunk.clips(audio=False)):
                clips[split] += 1
                tunes[split].add(clip["tune"])
                licences.add(clip["licence"])
        metadata: Any = self.info.metadata
        metadata.update(
            id=prepared.content_hash(),
            inputs=inputs.hash_of(prepared.entries),
            request=config_lib.to_dict(self.request),
            sample_rate=self.request.sample_rate,
            seconds=self.request.seconds,
            seed=self.request.seed,
            font=self.request.font or "TimGM6mb.sf2 (pretty_midi)" if self.request.kind == "corpus" else "",
            clips={split: clips[split] for split in prepared.chunks},
            tunes={split: len(tunes[split]) for split in prepared.chunks},
            rejected=sum(item.start is None for item in prepared.rejected),
            remarks=sum(item.start is not None for item in prepared.rejected),
            licences=sorted(licences),
        )
        return {split: self._generate_examples(split, count) for split, count in clips.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        assert self.prepared is not None
        clips = (clip for chunk in self.prepared.chunks[split] for clip in chunk.clips())
        for example in writing.shown(clips, split, count):
            del example["digest"]
            truth = example["truth"] or NO_TRUTH
            example["truth"] = {**truth, "notes": np.asarray(truth["notes"], np.float32).reshape(-1, 4)}
            told = example.get("controls", [controls.UNKNOWN] * len(controls.SLOTS))
            example["controls"] = np.asarray(told, np.int32)
            yield example["id"], example


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
