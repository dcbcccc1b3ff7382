"""`melody generate` and `melody export` as a user meets them."""

import json
import subprocess
import sys

import pytest

from melody_jax.bundle import Bundle
from melody_jax.cli import generate as generate_command
from melody_jax.cli.main import main


def refused(capsys, arguments):
    """Runs, expects exit code 2 and one line, returns it."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ")
    return error


def test_one_prompt(bundle_dir, tmp_path, capsys):
    out = tmp_path / "new" / "x.wav"
    command = ["generate", "a slow waltz", "--bundle", bundle_dir, "--seconds", 0.4, "--steps", 3, "--guidance", 2.5]
    assert main([str(word) for word in [*command, "--seed", 1, "--out", out]]) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["x.json", "x.png", "x.wav"]
    said = capsys.readouterr()
    assert str(out) in said.out
    assert "sampling: 100%" in said.err
    assert json.loads(out.with_suffix(".json").read_text())["settings"]["steps"] == 3


def test_prompt_file_and_folder(bundle_dir, tmp_path):
    (tmp_path / "prompts.txt").write_text("Loud drums!\n\n  flute \n")
    command = ["generate", "--prompts", tmp_path / "prompts.txt", "--bundle", bundle_dir, "--seconds", 0.4]
    assert main([str(word) for word in [*command, "--out", tmp_path / "music"]]) == 0
    assert sorted(path.name for path in (tmp_path / "music").glob("*.wav")) == ["0-loud-drums.wav", "1-flute.wav"]
    assert json.loads((tmp_path / "music" / "1-flute.json").read_text())["prompt"] == "flute"
    assert main([str(word) for word in [*command, "--out", tmp_path / "y.wav"]]) == 0
    assert {path.name for path in tmp_path.glob("y*.wav")} == {"y-0.wav", "y-1.wav"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "no prompt"),
        (["  "], "prompt is empty"),
        (["a", "--steps", "0"], "steps must be at least 1"),
        (["a", "--steps", "many"], "steps"),
        (["a", "--seconds", "0"], "seconds must be more than 0"),
        (["a", "--seconds", "-3"], "seconds must be more than 0"),
        (["a", "--seconds", "1e5"], "at most 600"),
        (["a", "--seconds", "nan"], "seconds must be"),
        (["a", "--guidance", "-1"], "guidance"),
        (["a", "--schedule", "cubic"], "schedule"),
        (["a", "--temperature", "-1"], "temperature"),
        (["a", "--noise", "2"], "noise must be"),
        (["a", "--seed", "-1"], "seed"),
        (["a", "--batch_size", "0"], "batch_size"),
        (["a", "--bundle", "/nowhere"], "not a bundle"),
        (["a", "--out", "x.mp3"], ".wav"),
        (["a", "--out", "/proc/nowhere/x.wav"], "cannot write"),
        (["--prompts", "/nowhere.txt"], "cannot read the prompts"),
        (["a", "--prompts", "/nowhere.txt"], "not several"),
        (["--music", "/nowhere.wav"], "cannot read the music"),
        (["a", "--colour", "red"], "unknown arguments"),
    ],
)
def test_bad_arguments(bundle_dir, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    bundle = [] if "--bundle" in arguments else ["--bundle", bundle_dir]
    assert words in refused(capsys, ["generate", *arguments, *bundle])
    assert not list(tmp_path.glob("*.wav"))


@pytest.mark.parametrize("content", [b"", b"\n  \n", b"\xff\xfe\x00"])
def test_bad_prompt_files(bundle_dir, tmp_path, capsys, content):
    (tmp_path / "prompts.txt").write_bytes(content)
    refused(capsys, ["generate", "--prompts", tmp_path / "prompts.txt", "--bundle", bundle_dir])


def test_no_default_bundle(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(generate_command, "REPOSITORY_BUNDLE", tmp_path / "absent")
    assert "--bundle DIR" in refused(capsys, ["generate", "a", "--out", tmp_path / "x.wav"])


def test_export(model_dir, tmp_path, capsys):
    (tmp_path / "table.md").write_text("## Figures")
    options = ["--section", tmp_path / "table.md", "--licence", "none", "--set", "steps=7", "--set", "schedule=uniform"]
    command = ["export", "--model_dir", model_dir, "--out", tmp_path / "bundle", "--dtype", "bfloat16", *options]
    assert main([str(word) for word in command]) == 0
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.sampling == {"steps": 7, "schedule": "uniform"}
    assert {part.dtype for part in bundle.parts.values()} == {"bfloat16"}
    assert "## Figures" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert "lm/weights.safetensors" in capsys.readouterr().out


def test_export_takes_the_defaults_of_a_size(model_dir, tmp_path):
    command = [
        "export",
        "--model_dir",
        model_dir,
        "--out",
        tmp_path / "bundle",
        "--size",
        "tiny",
        "--set",
        "guidance=3",
    ]
    assert main([str(word) for word in command]) == 0
    sampling = Bundle.load(tmp_path / "bundle").sampling
    assert sampling["guidance"] == 3 and sampling["temperature"] == 1.0
    assert "steps" not in sampling


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--size", "huge"], "unknown size 'huge'"),
        (["--dtype", "int8"], "unknown dtype"),
        (["--set", "steps"], "NAME=VALUE"),
        (["--set", "steps=0"], "steps must be"),
        (["--set", "colour=1"], "unknown setting"),
        (["--section", "/nowhere.md"], "cannot read"),
        (["--tokenizer", "/nowhere.json"], "cannot read"),
        (["--max_file_mib", "-1"], "max_file_mib"),
        (["--max_file_mib", "0.06251"], "tensor"),
        (["--model_dir", "/nowhere"], "not a folder"),
        (["--model_dir", "/tmp"], "no finished autoencoder"),
        (["--out", "/proc/nowhere/bundle"], "cannot export"),
    ],
)
def test_bad_export_arguments(model_dir, tmp_path, capsys, arguments, words):
    given = ["export", "--model_dir", model_dir, "--out", tmp_path / "bundle", *arguments]
    assert words in refused(capsys, given)
    assert not (tmp_path / "bundle").exists()


def test_sampling_imports_no_training_framework():
    """Sampling must start fast and install light; matplotlib waits until there is a picture to draw."""
    banned = ["tensorflow", "gin", "optax", "orbax", "tensorflow_datasets", "seqio", "matplotlib", "data_pipelines"]
    code = f"""
import sys
import melody_jax.cli.main, melody_jax.cli.generate, melody_jax.generate.writer, melody_jax.generate.reader
print([name for name in {banned} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
