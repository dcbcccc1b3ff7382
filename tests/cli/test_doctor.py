"""`melody doctor`: a healthy run, the faults that only the command can see, exit codes, and what it leaves alone."""

import json
import shutil

import numpy as np
import pytest

from melody_jax.bundle.part import load_part, save_part
from melody_jax.cli import main
from melody_jax.train.end import sole_user
from tests.cli.test_interrupted import SMALL


def doctor(models, data, *options):
    settings = [word for binding in (*SMALL, "BATCH_SIZE=8") for word in ("--set", binding)]
    where = ["--data", "music", "--data_dir", str(data), "--model_dir", str(models)]
    return main.main(["doctor", "lm", "--size", "tiny", *where, "--hardware", "cpu", *settings, *options])


def contents(folder):
    """Path -> size and time of change of every file but a lock, in which its holder counts."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_a_healthy_run_has_no_failure_and_is_left_alone(tokenised, tmp_path, capsys):
    models, data = shutil.copytree(tokenised[0], tmp_path / "models"), tokenised[1]
    with sole_user(models / "lm"):  # a run in progress
        (models / "lm" / "checkpoints" / "5").mkdir(parents=True)
        (models / "lm" / "checkpoints" / "5" / "data").write_text("precious")
        before = contents(models)
        assert doctor(models, data) == 0
        assert contents(models) == before
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}, lines
    checks = {line[9:].partition(":")[0] for line in lines}
    assert {"part autoencoder", "parts together", "data set", "tokens of these parts", "tokens of this audio",
            "data order", "data position", "batch semantic", "batch rows differ", "held-out batch text", "codes semantic",
            "codes mulan", "first step", "gradients", "gradients reach", "one batch by heart", "input rate", "checkpoint",
            "disk space"} <= checks  # fmt: skip
    assert "ok       one batch by heart" in "\n".join(lines)


def test_a_damaged_parent_and_tokens_of_another_one(tokenised, tmp_path, capsys):
    models = shutil.copytree(tokenised[0], tmp_path / "models")
    codes = load_part(models / "codes")
    save_part(models / "codes", "codes", {"w": np.ones(2, np.float32)}, codes.config, codes.geometry, {}, {})
    weights = models / "autoencoder" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert doctor(models, tokenised[1], "--updates", "1", "--json") == 1
    findings = json.loads(capsys.readouterr().out)
    failures = {finding["check"]: finding for finding in findings if finding["level"] == "failure"}
    assert set(failures) == {"part autoencoder", "tokens of these parts"}
    assert "is damaged" in failures["part autoencoder"]["measured"]
    assert "made by codes" in failures["tokens of these parts"]["measured"]
    assert all(finding["advice"] for finding in findings if finding["level"] != "ok")


def test_a_missing_parent_is_a_failure_and_not_an_error(tokenised, tmp_path, capsys):
    models = shutil.copytree(tokenised[0], tmp_path / "models")
    shutil.rmtree(models / "codes")
    assert doctor(models, tokenised[1]) == 1
    said = capsys.readouterr().out
    assert "failure  part codes: not in" in said and "-> run melody train codes first" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--updates", "0"], "--updates must be at least 1"),
        (["--mesh", "data=3"], "needs 3 devices and there are 8"),
        (["--stepz", "3"], "unknown arguments: --stepz 3 (see melody doctor --help)"),
        (["--set", "lm.LMConfig.depth=3"], "doesn't have a parameter named 'depth'"),
        (["--set", "BATCH_SIZE=6"], "a global batch of 6 does not divide"),
    ],
)
def test_bad_arguments(tmp_path, capsys, options, message):
    assert doctor(tmp_path, tmp_path, *options) == 2
    assert message in capsys.readouterr().err
