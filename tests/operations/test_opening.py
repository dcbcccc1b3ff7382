"""What does not belong together is said before the first step: rates, lengths and geometries of data, parents, model."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipelines import read
from melody_jax import config
from melody_jax.bundle.part import save_part
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.operations import opening
from melody_jax.train.run import Run
from tests.stages import test_lm, test_semantic
from tests.train.regression import ChildStage, RegressionConfig, RegressionStage

SEMANTIC = test_semantic.STAGE
RATE, CLIP = SEMANTIC.geometry.sample_rate, SEMANTIC.geometry.clip_seconds


@pytest.fixture
def data_set(tmp_path):
    """Makes the metadata of an audio data set "music", and returns its version folder."""

    def make(**facts):
        directory = read.audio_directory(str(tmp_path), "music")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "metadata.json").write_text(json.dumps({"id": "x"} | facts))
        return directory

    return make


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"sample_rate": 44_100, "seconds": CLIP}, f"has 44100 Hz and semantic {RATE} Hz; build it again"),
        ({"sample_rate": RATE, "seconds": CLIP / 2}, f"clips of {CLIP / 2:g} s and semantic reads {CLIP:g} s"),
        ({"geometry": config.to_dict(Geometry(hop=480))}, "tokens of another .*hop 480"),
    ],
)
def test_data_of_another_geometry_is_refused(data_set, tmp_path, facts, said):
    data_set(**facts)
    with pytest.raises(UserError, match=said):
        opening.open_run(SEMANTIC, Run(1, model_dir=str(tmp_path), data="music"), str(tmp_path))


def test_data_that_fits_is_opened(data_set, tmp_path):
    directory = data_set(sample_rate=RATE, seconds=2 * CLIP)
    opened = opening.open_run(SEMANTIC, Run(1, model_dir=str(tmp_path), data="music"), str(tmp_path))
    assert list(opened.directories) == [directory] and opened.stage is SEMANTIC
    with pytest.raises(UserError, match="this size"):  # tokens would be of whole clips
        opening.check_clips(SEMANTIC, "music", str(tmp_path))


def test_parents_of_another_geometry_are_refused(data_set, tmp_path, monkeypatch):
    monkeypatch.setattr(opening.graph, "PARENTS", {"child": ("regression",)})
    weights, moved = {"w": np.zeros(2, np.float32)}, dataclasses.replace(Geometry(), hop=480)
    save_part(tmp_path / "regression", "regression", weights, RegressionConfig(), moved, {}, {})
    data_set()
    with pytest.raises(UserError, match="its parent regression was trained with another hop 480"):
        opening.open_run(ChildStage(), Run(1, model_dir=str(tmp_path), data="music"), str(tmp_path))


def test_a_mesh_or_batch_that_does_not_fit_is_said_first(tmp_path):
    run = Run(1, model_dir=str(tmp_path), data="none")
    with pytest.raises(UserError, match="a global batch of 6 does not divide"):
        opening.open_run(RegressionStage(batch_size=6), run, str(tmp_path))
    with pytest.raises(UserError, match="needs 3 devices"):
        opening.open_run(RegressionStage(), dataclasses.replace(run, mesh="data=3"), str(tmp_path))
    with pytest.raises(UserError, match="lm needs a finished codes"):
        opening.open_run(dataclasses.replace(test_lm.STAGE, batch_size=8), run, str(tmp_path))
