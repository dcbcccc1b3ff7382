"""Evaluation of own music of few clips: what can be measured is, what cannot is named, nothing is refused."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from data_pipelines import build, read
from data_pipelines.clip import Truth
from data_pipelines.request import Request
from melody_jax.bundle.bundle import Bundle
from melody_jax.cli.main import main
from melody_jax.errors import UserError
from melody_jax.operations import evaluation
from tests.data_pipelines.tones import write_music
from tests.generate.conftest import GEOMETRY, bundle_dir, model_dir  # noqa: F401

# The tokenizer of these tests knows letters alone, and the tones have numbers.
pytestmark = pytest.mark.filterwarnings("ignore:the model knows no word")

TRUTH = Truth(("flute",), "flute", ("flute",), 96.0, "C", "major", "", "solo", (), notes=((0.0, 0.3, 60, 0),))


@pytest.fixture(scope="module")
def own_music(tmp_path_factory):
    """Folder of a data set of three tones: one clip in each split."""
    root = tmp_path_factory.mktemp("own")
    music = write_music(root / "music", 3, seconds=GEOMETRY.clip_seconds)
    (music / "tune00.txt").write_text("a tone\nof more letters than the sixteen tokens of these models\n")
    form = {"sample_rate": GEOMETRY.sample_rate, "seconds": GEOMETRY.clip_seconds, "min_seconds": 0.3}
    directory = build.build("own", Request("folder", str(music), **form), str(root), processes=1)
    assert read.counts(directory) == {"train": 1, "validation": 1, "test": 1}
    return root


def test_one_test_clip_is_measured(own_music, bundle_dir, tmp_path, capsys):  # noqa: F811
    command = f"evaluate --bundle {bundle_dir} --data own --data_dir {own_music} --out {tmp_path}"
    assert main(command.split()) in (0, 1)
    printed, report = capsys.readouterr().out, json.loads((tmp_path / "report.json").read_text())
    figures = {figure["name"]: figure for figure in report["figures"]}
    for name in ("text-to-music R@1", "perplexity, prefixes shuffled", "error, tokens shuffled / right"):
        assert figures[name]["lacks"] == "it takes two held-out clips" and figures[name]["reached"] is None
        assert name not in printed.partition("missed: ")[2]
    for name in ("log-mel distance", "perplexity", "velocity error"):
        assert np.isfinite(figures[name]["value"]) and figures[name]["reached"] in (True, False)
    assert "(one clip)" in printed and "captions cut at the 16 tokens that the model reads: 1" in printed
    (table,) = report["tables"].values()
    assert table["MuLan cycle consistency (MCC)"]["made"]["clips"] == 1
    assert table["kernel audio distance to unseen music"]["made"] == "it takes 2 pieces"
    assert table["MAUVE audio divergence from unseen music"]["made"] == "it takes 20 pieces"


def test_notes_that_no_training_clip_knows_are_named(own_music, bundle_dir, tmp_path, monkeypatch):  # noqa: F811
    """The held-out clip was rendered from a score, what judges would be fitted on was not."""
    plain = read.read_clips

    def known(directory, split, limit=None):
        truth = TRUTH if split == "test" else None
        return (dataclasses.replace(clip, truth=truth) for clip in plain(directory, split, limit))

    monkeypatch.setattr(read, "read_clips", known)
    asked = evaluation.Evaluation(str(bundle_dir), "own", str(own_music), str(tmp_path))
    found = evaluation.evaluate(asked)
    (lacking,) = (figure for figure in found.figures if figure.stage == "judges")
    assert lacking.lacks == "it takes training clips whose notes are known" and not lacking.missed
    assert [table.title for table in found.tables] == ["Text to music, 1 prompts"]


def test_no_clip_at_all_is_refused(own_music, tmp_path):
    with pytest.raises(UserError, match="--clips must be at least 1"):
        evaluation.Evaluation("bundle", "own", str(own_music), str(tmp_path), clips=0)


def test_bundles_are_seen_side_by_side(own_music, bundle_dir, tmp_path, capsys):  # noqa: F811
    bundles = [tmp_path / "old" / "bundle", tmp_path / "new" / "bundle"]
    for bundle in bundles:
        shutil.copytree(bundle_dir, bundle)
    out = tmp_path / "report"
    command = (
        f"evaluate --bundle {bundles[0]} --bundle {bundles[1]} --data own --data_dir {own_music} --out {out} --links 0"
    )
    assert main(command.split()) in (0, 1)
    printed = capsys.readouterr().out
    assert "## Bundles side by side" in printed and "missed: old-bundle, " in printed and "; new-bundle, " in printed
    reports = [json.loads((out / name / "report.json").read_text()) for name in ("old-bundle", "new-bundle")]
    assert reports[0]["figures"] == reports[1]["figures"]  # it is the same bundle
    with (out / "comparison.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["bundle"] for line in lines] == sorted((line["bundle"] for line in lines), reverse=True)
    row = next(row for row in (out / "comparison.md").read_text().splitlines() if row.startswith("| lm: perplexity "))
    cells = [cell.strip() for cell in row.split("|")[2:4]]
    assert cells[0] == cells[1] != "-" and "*" not in row
    assert [len(list(folder.glob("00.*"))) for folder in (out / "music", out / "music" / "old-bundle")] == [2, 2]
    assert (out / "index.html").read_text().count("<audio") == 3


def test_a_bundle_that_does_not_fit_the_data_is_refused_before_any_is_measured(
    own_music,
    bundle_dir,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    whole = Bundle.load(bundle_dir)

    def load(directory):
        seconds = 0.8 if str(directory) == "longer" else GEOMETRY.clip_seconds
        geometry = dataclasses.replace(GEOMETRY, clip_seconds=seconds)
        return dataclasses.replace(whole, geometry=geometry)

    monkeypatch.setattr(Bundle, "load", load)
    monkeypatch.setattr(evaluation, "evaluate", lambda asked: pytest.fail("one was measured"))
    asked = {
        name: evaluation.Evaluation(name, "own", str(own_music), str(tmp_path / name)) for name in ("one", "longer")
    }
    with pytest.raises(
        UserError, match=r"longer makes music of 4000 Hz in clips of 0\.8 s, but the data set own holds"
    ):
        list(evaluation.evaluate_all(asked))


def test_one_bundle_twice_is_no_comparison(bundle_dir, tmp_path, capsys):  # noqa: F811
    command = f"evaluate --bundle {bundle_dir} --bundle {bundle_dir}/. --data own --out {tmp_path}"
    assert main(command.split()) == 2
    assert capsys.readouterr().err == "error: --bundle names one folder twice\n"
