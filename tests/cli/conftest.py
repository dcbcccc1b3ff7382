"""A tokenised data set without a trained model, for commands that train on tokens."""

import json

import numpy as np
import pytest

from data_pipelines import read, tokens
from melody_jax.bundle.part import save_part
from melody_jax.codes import controls
from melody_jax.graph import READ_AUDIO
from melody_jax.operations import configuration
from tests.token_sets import write_tokens


@pytest.fixture(scope="module")
def tokenised(tmp_path_factory):
    """A folder with what `melody tokenize` leaves: parts, and tokens that name them; (model folder, data folder)."""
    models, data = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("data")
    stage = configuration.compose(configuration.gin_files("lm", "tiny", "cpu")).stage
    geometry = stage.geometry
    weight = {"w": np.zeros(2, np.float32)}
    lineage = {name: save_part(models / name, name, weight, stage.config, geometry, {}, {}).id for name in READ_AUDIO}
    audio = read.audio_directory(str(data), "music")
    audio.mkdir(parents=True)
    (audio / "metadata.json").write_text(json.dumps({"id": "of the music"}))

    def examples(split, count):
        rng = np.random.default_rng(count)
        for index in range(count):
            mulan, text = rng.integers(0, geometry.mulan_codes, (2, geometry.mulan_tokens)).astype(np.int32)
            yield tokens.TokenExample(
                id=f"{split}{index}",
                family="",
                mulan=mulan,
                text=text[None],
                semantic=rng.integers(0, geometry.semantic_size, geometry.clip_semantic).astype(np.int32),
                latents=np.zeros((geometry.clip_frames, geometry.latent_channels), np.float16),
                controls=np.zeros(len(controls.SLOTS), np.int32),
            )

    splits = {"train": lambda: examples("train", 23), "validation": lambda: examples("validation", 5)}
    write_tokens(str(models), "music", splits, lineage, geometry, source="of the music")
    return models, data
