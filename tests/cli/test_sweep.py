"""`melody sweep`: its files, what it refuses before the first trial, and whole sweeps from the command line."""

import csv
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml

from data_pipelines import read
from launch import job
from melody_jax import config
from melody_jax.bundle.part import load_part, save_part
from melody_jax.cli import main
from melody_jax.errors import UserError
from melody_jax.graph import READ_AUDIO
from melody_jax.operations import configuration
from melody_jax.operations.sweep import command as commands
from melody_jax.operations.sweep import whole
from melody_jax.operations.sweep.trial import Trial
from melody_jax.train.optim import OptimConfig
from tests.cli.test_interrupted import OFTEN, SMALL
from tests.operations.sweep.process import STAND_IN
from tests.train.regression import RegressionConfig, RegressionStage

FILE = """
    from __gin__ import dynamic_registration
    from melody_jax.operations.sweep import config as sweep
    from melody_jax.operations.sweep import ranges
    sweep.Sweep.stage = "lm"
    sweep.Sweep.size = "tiny"
    sweep.Sweep.data = "music"
    sweep.Sweep.hardware = "cpu"
    sweep.Sweep.bindings = {"TOTAL_STEPS": 3}
    sweep.Sweep.space = {"lm.LMConfig.dropout": [0.2, 0.1], "optim.OptimConfig.b1": [0.0, 1.0]}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("\n".join(line.strip() for line in FILE.splitlines()))
    return path


@pytest.fixture
def parents(tmp_path):
    """Options that name the parents and the data, and the parents' folder; the tokens are named only."""
    models, data = tmp_path / "models", tmp_path / "data"
    stage = configuration.compose(configuration.gin_files("lm", "tiny", "cpu")).stage
    weight = {"w": np.zeros(2, np.float32)}
    made = {name: save_part(models / name, name, weight, stage.config, stage.geometry, {}, {}) for name in READ_AUDIO}
    lineage = {name: part.id for name, part in made.items()}
    for folder, facts in {
        read.audio_directory(str(data), "music"): {"id": "of the music"},
        read.tokens_directory(str(models), "music"): {"lineage": lineage, "source": "of the music"},
    }.items():
        folder.mkdir(parents=True)
        (folder / "metadata.json").write_text(json.dumps(facts))
    return ["--parents_dir", str(models), "--data_dir", str(data)], models


def melody(tmp_path, file, *arguments):
    return main.main(["sweep", str(file), "--sweep_dir", str(tmp_path / "sweep"), *arguments])


def fingerprint(folder):
    """All files below a folder and what is in them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


FILES = sorted((configuration.configs_directory() / "sweeps").glob("*.gin"))
LAUNCH = configuration.configs_directory() / "launch"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_sweep_of_the_repository_composes(path, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(["sweep", f"sweeps/{path.name}", "--dry_run"]) == 0
    printed, wanted = capsys.readouterr().out, commands.read(str(path), [])
    assert printed.count("\ntrial ") + printed.startswith("trial ") == len(
        wanted.proposals() if wanted.kind != "optuna" else []
    )
    assert f"in runs/sweeps/{path.stem}" in printed and f"melody train {wanted.stage} " in printed
    assert list(tmp_path.iterdir()) == []


def test_there_is_a_sweep_of_every_kind_and_the_tiny_one_has_twelve_trials():
    assert {commands.read(str(path), []).kind for path in FILES} == {"grid", "random", "optuna"}
    tiny = commands.read("sweeps/lm_tiny.gin", [])
    assert (tiny.trials, tiny.kind, tiny.pruner, tiny.stage, tiny.size) == (12, "optuna", "median", "lm", "tiny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "sweep.Sweep.space={'lm.LMConfig.drop': [0.1]}"], "doesn't have a parameter named 'drop'"),
        (["--set", "sweep.Sweep.space={'TOTAL_STEP': [3]}"], "nobody reads 'TOTAL_STEP=3'"),
        (["--set", "sweep.Sweep.space={'x/lm.LMConfig.dropout': [0.1]}"], "nobody reads 'x/lm.LMConfig.dropout=0.1'"),
        (["--set", "sweep.Sweep.space={'loop.Run.eval_every': ['often']}"], "eval_every is 'often', which is no int"),
        (["--set", "sweep.Sweep.space={'lm.LMConfig.heads': [4, 5]}"], "not an even multiple of 5 heads"),
        (["--set", "sweep.Sweep.bindings={'lm.LMConfig.nothing': 1}"], "doesn't have a parameter named 'nothing'"),
        (["--set", "sweep.Sweep.stage=all"], "unknown stage 'all'"),
        (["--set", "sweep.Sweep.kind=bayes"], "kind 'bayes' is none of"),
        (["--set", "sweep.Sweep.trials=-1"], "trials must be a whole number"),
        (["--set", "sweep.Sweep.shape=3"], "doesn't have a parameter named 'shape'"),
        (["--set", "b/sweep.Sweep.trials=3"], "nobody reads the bindings of b/"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--launch", "lsf", "x.yaml"], "'lsf' is none of tpu-vm, gke, slurm"),
        (["--launch", "slurm", str(LAUNCH / "v5e-256.yaml")], "the key `slurm` is missing in"),
        (["--launch", "gke", "none.yaml"], "none.yaml cannot be read"),
        ([], "no finished data set here"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_any_work(tmp_path, file, capsys, arguments, message):
    assert melody(tmp_path, file, "--data_dir", str(tmp_path), *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and message in error
    assert not (tmp_path / "sweep").exists()


def test_types_are_checked(tmp_path):
    stage = RegressionStage()
    config.check_types(stage)
    for wrong in ("wide", 1.5, True, None):
        changed = dataclasses.replace(stage, config=RegressionConfig(width=wrong))
        with pytest.raises(UserError, match=f"RegressionConfig.width is {wrong!r}, which is no int"):
            config.check_types(changed)
    config.check_types(dataclasses.replace(stage, optim=OptimConfig(learning_rate=1.0)))
    assert config.fits(float, 1) and config.fits(int | None, None) and not config.fits(str | None, 3)


def test_values_of_an_optuna_sweep_are_tried_too(tmp_path, file, capsys):
    optuna = ["--set", "sweep.Sweep.kind=optuna", "--set", "sweep.Sweep.trials=3", "--dry_run"]
    assert melody(tmp_path, file, *optuna) == 0
    file.write_text(file.read_text() + "\nsweep.Sweep.space = {'lm.LMConfig.heads': @ranges.Integer()}\n"
                    "ranges.Integer.low = 4\nranges.Integer.high = 5\n")  # fmt: skip
    assert melody(tmp_path, file, *optuna) == 2
    assert "not an even multiple of 5 heads" in capsys.readouterr().err


def test_parents_are_needed_and_their_tokens_must_be_theirs(tmp_path, file, parents, capsys):
    (_, _, *data), models = parents
    assert melody(tmp_path, file, *data) == 2
    assert "needs --parents_dir" in capsys.readouterr().err
    copy = shutil.copytree(models, tmp_path / "copy")
    codes = load_part(copy / "codes")
    save_part(copy / "codes", "codes", codes.params, codes.config, codes.geometry, {"mulan": "another"}, {})
    assert melody(tmp_path, file, *data, "--parents_dir", str(copy)) == 2
    assert f"run melody tokenize --model_dir {copy} --data music first" in capsys.readouterr().err
    shutil.rmtree(copy / "codes")
    assert melody(tmp_path, file, *data, "--parents_dir", str(copy)) == 2
    assert "holds no finished codes" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_from_the_command_line(tmp_path, file, parents, capsys, monkeypatch):
    monkeypatch.setattr(commands, "MELODY", (sys.executable, str(STAND_IN)))
    options, models = parents
    before = fingerprint(models)
    assert melody(tmp_path, file, *options, "--workers", "2") == 0
    printed = capsys.readouterr().out.splitlines()
    assert sum("failed" in line and line.startswith("trial ") for line in printed) == 4  # as they end, and at the end
    assert sum("finished, eval/loss 0." in line for line in printed) == 2
    with (tmp_path / "sweep" / "results.csv").open(newline="") as results:
        rows = list(csv.DictReader(results))
    assert [row["lm.LMConfig.dropout"] for row in rows if row["state"] == "finished"] == ["0.1", "0.2"]
    assert [row["message"] for row in rows if row["state"] == "failed"] == ["error: it went wrong"] * 2
    assert (tmp_path / "sweep" / "results.png").stat().st_size > 10_000
    # trials see the parents through links, and what would replace the tokens fails
    trial = tmp_path / "sweep" / rows[0]["folder"]
    assert (trial / "codes").is_symlink() and load_part(trial / "codes").id == load_part(models / "codes").id
    tokens = read.tokens_directory(str(trial), "music")
    assert read.metadata(tokens) == read.metadata(read.tokens_directory(str(models), "music"))
    with pytest.raises(OSError, match="symbolic link"):
        shutil.rmtree(tokens)
    assert fingerprint(models) == before
    # nothing is left to do; another sweep is not welcome in this folder
    assert melody(tmp_path, file, *options) == 0
    assert len((trial / "lm" / "starts").read_text().split()) == 1
    assert melody(tmp_path, file, *options, "--set", "sweep.Sweep.metric=eval/text_loss") == 2
    assert "holds trials with metric 'eval/loss'" in capsys.readouterr().err


def test_no_finished_trial_is_exit_code_1_and_a_signal_is_its_own(tmp_path, file, parents, monkeypatch, capsys):
    monkeypatch.setattr(commands, "MELODY", (sys.executable, str(STAND_IN)))
    failing = ["--set", "sweep.Sweep.space={'optim.OptimConfig.b1': [1.0]}"]
    assert melody(tmp_path, file, *parents[0], *failing) == 1
    monkeypatch.setattr(whole, "run_trials", lambda *_: signal.SIGTERM)
    assert melody(tmp_path, file, *parents[0], *failing) == 143
    assert "the same command goes on" in capsys.readouterr().err


def test_a_launched_trial_has_a_description_of_its_own(tmp_path):
    file = configuration.configs_directory() / "launch" / "v5e-256.yaml"
    command = ["melody", "train", "lm", "--set", "a.b='c d'"]
    trial = Trial(0, {"a.b": "'c d'"})
    words = commands.launch_command("tpu-vm", str(file), trial, tmp_path, command)
    options = words[words.index("launch") :]
    assert options[:3] == ["launch", "tpu-vm", "--config"] and options[4:] == ["--out", str(tmp_path / "launch")]
    given, made = job.read(file), job.read(options[3])
    assert made.command == tuple(command) and made.name.endswith(trial.key) and made.name != given.name
    own = yaml.safe_load(file.read_text()).keys() - {"name", "command"}
    assert own and all(getattr(made, name) == getattr(given, name) for name in own)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stand-ins on PATH for SLURM, which runs a job at once, and for `melody`; the description of its jobs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in {
        "sbatch": 'echo "$@" >> $0.calls; echo 17; SLURM_JOB_ID=17 exec bash "${@: -1}"',
        "squeue": "echo RUNNING",
        "srun": '"$@"',
        "melody": f'exec {sys.executable} {STAND_IN} "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    description = {"name": "trial", "command": "melody train lm", "restarts": 0}
    file = tmp_path / "slurm.yaml"
    file.write_text(yaml.safe_dump(description | {"slurm": {"nodes": 1, "gpus_per_node": 1}}))
    return file


def test_a_sweep_through_slurm(tmp_path, file, parents, slurm, capsys):
    """The launcher of a trial ends with its job: with its success, and with its failure."""
    space = "sweep.Sweep.space={'optim.OptimConfig.b1': [0.0, 1.0]}"
    options = [*parents[0], "--launch", "slurm", str(slurm), "--set", space]
    assert melody(tmp_path, file, *options, "--dry_run") == 0
    assert not (tmp_path / "sweep").exists()
    assert melody(tmp_path, file, *options) == 0
    with (tmp_path / "sweep" / "results.csv").open(newline="") as results:
        rows = {row["optim.OptimConfig.b1"]: row for row in csv.DictReader(results)}
    assert (rows["0.0"]["state"], rows["1.0"]["state"]) == ("finished", "failed"), rows
    assert "ended with exit code 1; see " in rows["1.0"]["message"]
    calls = (tmp_path / "bin" / "sbatch.calls").read_text().splitlines()
    assert len(calls) == 2 and all(call.startswith("--parsable --wait ") for call in calls)


@pytest.mark.slow  # compiles the language model: a minute
def test_a_real_sweep_of_the_language_model(tmp_path, file, tokenised):
    models, data = tokenised
    options = ["--parents_dir", str(models), "--data_dir", str(data)]
    bindings = dict(binding.split("=") for binding in (*SMALL, *OFTEN))
    bindings = {name: int(value) for name, value in bindings.items()} | {
        "TOTAL_STEPS": 40,
        "loop.Run.eval_steps": 1,
        "loop.Run.eval_every": 10,
    }
    space = {"lm.LMConfig.dropout": [0.0, 0.1]}
    settings = [f"sweep.Sweep.bindings={bindings}", f"sweep.Sweep.space={space}"]
    command = [sys.executable, "-m", "melody_jax.cli.main", "sweep", str(file), "--sweep_dir", str(tmp_path / "sweep")]
    command += [*options, *(word for setting in settings for word in ("--set", setting))]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    before = fingerprint(models)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert fingerprint(models) == before
    parts = [load_part(path) for path in sorted(tmp_path.glob("sweep/trials/*/lm"))]
    assert len({part.id for part in parts}) == 2
    assert {part.config["dropout"] for part in parts} == {0.0, 0.1}
    assert all(part.parents == {"codes": load_part(models / "codes").id} for part in parts)
    record = json.loads(next(tmp_path.glob("sweep/trials/*/trial.json")).read_text())
    assert record["state"] == "finished" and record["step"] == 40 and record["value"] > 0
