"""Tokens are known by the ids of the parts that made them."""

import json

import numpy as np
import pytest

from data_pipelines import read
from melody_jax.bundle import save_part
from melody_jax.geometry import Geometry
from melody_jax.graph import READ_AUDIO
from melody_jax.operations import tokens


class WeightsAreReadError(Exception):
    """Instead of reading them."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model folder with parts and tokens that they made; weights cannot be read."""
    ids = {}
    for name in READ_AUDIO:
        params = {"w": np.full(3, len(ids), np.float32)}
        ids[name] = save_part(tmp_path / name / "part", name, params, {}, Geometry(), {}, {}).id
    audio, made = read.audio_directory(tmp_path, "music"), read.tokens_directory(tmp_path, "music")
    for directory, says in ((audio, {"id": "a"}), (made, {"lineage": ids, "source": "a"})):
        directory.mkdir(parents=True)
        (directory / "metadata.json").write_text(json.dumps(says))

    def refuse(*_):
        raise WeightsAreReadError

    monkeypatch.setattr(tokens, "load_part", refuse)
    return tmp_path


def test_tokens_that_are_there_are_known_without_reading_a_weight(folder):
    assert tokens.of_model_dir(str(folder), "music", str(folder)) == read.tokens_directory(folder, "music")


@pytest.mark.parametrize("change", ["a part", "the audio"])
def test_tokens_of_other_parts_or_other_audio_are_not_those(folder, change):
    if change == "a part":
        save_part(folder / READ_AUDIO[-1] / "part", READ_AUDIO[-1], {"w": np.ones(1)}, {}, Geometry(), {}, {})
    else:
        (read.audio_directory(folder, "music") / "metadata.json").write_text('{"id": "b"}')
    with pytest.raises(WeightsAreReadError):
        tokens.of_model_dir(str(folder), "music", str(folder))
