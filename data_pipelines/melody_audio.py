"""The TFDS data set of captioned clips.

    melody data corpus --name tiny --hours 3
    tfds build data_pipelines/melody_audio.py --data_dir data \
        --config '{"name": "mine", "request": {"kind": "folder", "path": "/home/me/music"}}'

Both make the same bytes under DATA_DIR/melody_audio/NAME/1.2.0, in TFRecord files.
"""

import dataclasses
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from data_pipelines import build, read
from data_pipelines.audio_set import DESCRIPTION, features
from data_pipelines.request import Request
from melody_jax import config as config_lib


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


class MelodyAudio(FileReaderBuilder):
    """Clips of music with captions and, for the built-in corpus, the ground truth."""

    VERSION = tfds.core.Version(read.AUDIO_VERSION)
    BUILDER_CONFIGS = [
        MelodyAudioConfig(name="corpus_48", request=Request("corpus", clips=48)),
        MelodyAudioConfig(name="corpus_3h", request=Request("corpus", clips=1080)),
    ]
    builder_config_cls = MelodyAudioConfig

    def download_and_prepare(self, **kwargs: Any) -> None:
        """What `build.build` does; nothing is downloaded."""
        del kwargs
        config: Any = self.builder_config
        directory = build.build(config.name, config.request, self._data_dir_root, config.processes)
        self.info.read_from_directory(directory)

    def _download_and_prepare(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        config: Any = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            description=DESCRIPTION,
            features=features(config.request.form.samples),
            metadata=tfds.core.MetadataDict(),
        )
