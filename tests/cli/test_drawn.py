"""`melody tokenize --drawn`: tokens of which a language model drew some."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from data_pipelines import read, tokens
from melody_jax.bundle.part import read_info, save_part
from melody_jax.cli import main
from melody_jax.operations import configuration


@pytest.fixture(scope="module")
def models(tokenised):
    """The model and the data folder, with a language model of random weights."""
    models, data = tokenised
    stage = configuration.compose(configuration.gin_files("lm", "tiny", "cpu")).stage
    stage = dataclasses.replace(stage, config=dataclasses.replace(stage.config, layers=1, hidden=64))
    params = nn.meta.unbox(jax.jit(stage.init)(jax.random.key(0)).params)
    parents = {"codes": read_info(models / "codes")["id"]}
    save_part(models / "lm", "lm", params, stage.config, stage.geometry, parents, {})
    return models, data


def _run(models, name="drawn", *more):
    folders = ["--model_dir", str(models[0]), "--data_dir", str(models[1])]
    return main.main(["tokenize", "--data", "music", "--drawn", name, "--batch_size", "8", *folders, *more])


def _stored(models, name, split):
    return list(tokens.read_tokens(read.tokens_directory(str(models[0]), name), split))


def test_some_tokens_of_training_clips_are_draws_and_nothing_else_changes(models, capsys):
    assert not _run(models)
    shares = []
    for before, after in zip(_stored(models, "music", "train"), _stored(models, "drawn", "train"), strict=True):
        shares.append(np.mean(before["semantic"] != after["semantic"]))
        for field in set(before) - {"semantic"}:
            np.testing.assert_array_equal(before[field], after[field])
    assert min(shares) < 0.3 and max(shares) > 0.7, "the share of draws is uniform in 0 to 1"
    for before, after in zip(
        _stored(models, "music", "validation"), _stored(models, "drawn", "validation"), strict=True
    ):
        np.testing.assert_array_equal(before["semantic"], after["semantic"])
    facts = read.metadata(directory := read.tokens_directory(str(models[0]), "drawn"))
    assert facts["lineage"]["lm"] == read_info(models[0] / "lm")["id"]

    made = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert not _run(models)
    assert made == {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}, "made once"
    assert not _run(models, "drawn", "--lm_guidance", "2")
    assert any(
        (one["semantic"] != other["semantic"]).any()
        for one, other in zip(_stored(models, "drawn", "train"), _stored(models, "music", "train"), strict=True)
    )
    assert read.metadata(directory)["id"] != facts["id"], "other draws replace them"


def test_what_cannot_be_drawn_is_refused(models, capsys, tmp_path):
    assert _run(models, "music")
    assert "a name of their own" in capsys.readouterr().err
    assert _run(models, "../drawn")
    assert "--drawn '../drawn': use letters" in capsys.readouterr().err
    assert _run(models, "more", "--lm_guidance", "-1")
    assert "LM guidance -1.0" in capsys.readouterr().err
    save_part(models[0] / "lm", "lm", {"w": np.ones(1, np.float32)}, {}, read_geometry(models), {"codes": "others"}, {})
    assert _run(models, "more")
    assert "trained on other codes" in capsys.readouterr().err


def read_geometry(models):
    """Of the tokens."""
    return tokens.open_tokens(read.tokens_directory(str(models[0]), "music")).geometry
