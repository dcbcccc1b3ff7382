"""`melody report`: what it says is what the runs have written."""

import json
import shutil

import numpy as np
import pytest

from melody_jax.cli.main import main
from melody_jax.files import read_lines
from melody_jax.train import loop
from melody_jax.train.end import sole_user
from tests.train import regression


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A run that was stopped after step 25 by a NaN at step 26, and went on from its checkpoint of step 21."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.raises(loop.StoppedError):
        regression.run(folder, stage=regression.RegressionStage(poison_step=26), delay=0.01)
    regression.run(folder)
    return folder


def _report(capsys, *arguments):
    assert main(["report", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_table_and_the_json_tell_of_the_run(models, tmp_path, capsys):
    told = json.loads(_report(capsys, models, "--json", "--out", tmp_path / "seen.png"))["regression"]
    assert (tmp_path / "seen.png").stat().st_size > 20_000 and not (models / "report.png").exists()
    assert (told["state"], told["step"], told["total"], told["restarts"], told["rollbacks"]) == (
        "finished",
        40,
        40,
        1,
        0,
    )
    records = read_lines(models / "regression" / "metrics.jsonl")
    train = [record for record in records if record["split"] == "train"]
    assert told["train"] == {"step": 40, "loss": train[-1]["loss"]}
    assert told["evaluation"] == {"step": 40, "loss": records[-1]["loss"]}
    assert told["rates"]["seconds_per_step"] == pytest.approx(np.median([r["seconds_per_step"] for r in train]))
    seconds = told["seconds"]
    assert seconds["redone"] > 0 and seconds["compilation"] > 0 and seconds["checkpointing"] > 0
    assert told["goodput"] == pytest.approx(seconds["steps"] / sum(seconds.values()), abs=1e-3)

    table = _report(capsys, models)
    assert (models / "report.png").stat().st_size > 20_000
    lines = {line[:20].strip(): line[20:].strip() for line in table.splitlines()}
    assert lines["state"] == "finished" and lines["steps"] == "40 of 40" and lines["restarts"] == "1"
    assert lines["goodput"] == f"{told['goodput']:.1%}" and lines["MFU"] == "-"
    assert f"regression train, step 40: loss {train[-1]['loss']:.4g}" in table
    assert f"plot: {models / 'report.png'}" in table


def test_a_run_that_goes_on_or_has_stopped_is_no_finished_one(models, tmp_path, capsys):
    folder = shutil.copytree(models, tmp_path / "models")
    shutil.rmtree(folder / "regression" / "part")
    shutil.copytree(folder / "regression", folder / "lm")  # a stage of ours comes before others
    (folder / "lm" / "goodput.jsonl").unlink()  # as in runs of before there was one
    with sole_user(folder / "regression"):
        lm, other = json.loads(_report(capsys, folder, "--json")).values()
    assert (other["name"], other["state"]) == ("regression", "running")
    assert (lm["name"], lm["state"], lm["step"], lm["total"], lm["goodput"]) == ("lm", "interrupted", 40, None, None)
    assert "interrupted" in _report(capsys, folder)


def test_no_run_is_one_line(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "none"):
        assert main(["report", str(folder)]) == 2
        assert "holds no training run" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--out", "x.pdf"]) == 2
    assert capsys.readouterr().err == "error: --out x.pdf is no .png\n"
