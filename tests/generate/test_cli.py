"""`melody generate` and `melody export` as a user meets them."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from melody_jax import storage
from melody_jax.bundle import Bundle
from melody_jax.cli import arguments as arguments_command
from melody_jax.cli.main import main
from melody_jax.generate import Melody
from melody_jax.generate.files import Files


def refused(capsys, arguments):
    """Runs, expects exit code 2 and one line, returns it."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ")
    return error


@pytest.fixture
def loaded_once(melody, bundle_dir, monkeypatch):
    """Commands that read the toy bundle get the one that is loaded and compiled; those of other tests load it."""
    load = Melody.load

    def loaded(directory, **options):
        return melody if str(directory) == str(bundle_dir) and not options["adapters"] else load(directory, **options)

    monkeypatch.setattr(Melody, "load", loaded)


def test_one_prompt(bundle_dir, tmp_path, capsys):
    out = tmp_path / "new" / "x.wav"
    command = ["generate", "a slow waltz", "--bundle", bundle_dir, "--seconds", 0.4, "--steps", 3, "--guidance", 2.5]
    assert main([str(word) for word in [*command, "--seed", 1, "--out", out]]) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["x.json", "x.png", "x.wav"]
    said = capsys.readouterr()
    assert str(out) in said.out
    assert "sampling: 100%" in said.err
    assert json.loads(out.with_suffix(".json").read_text())["settings"]["steps"] == 3


def test_prompt_file_and_folder(bundle_dir, tmp_path, loaded_once):
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
        (["a", "--steps", "0"], "steps must be from 1 to 1000"),
        (["a", "--steps", "many"], "steps"),
        (["a", "--seconds", "0"], "seconds must be more than 0"),
        (["a", "--seconds", "-3"], "seconds must be more than 0"),
        (["a", "--seconds", "1e5"], "at most 600"),
        (["a", "--seconds", "nan"], "seconds must be"),
        (["a", "--guidance", "-1"], "guidance"),
        (["a", "--schedule", "cubic"], "schedule"),
        (["a", "--temperature", "-1"], "temperature"),
        (["a", "--bpm", "9000"], "9000"),
        (["a", "--key", "H flat"], "H flat"),
        (["a", "--seed", "-1"], "seed"),
        (["a", "--batch_size", "0"], "batch_size"),
        (["a", "--bundle", "/nowhere"], "not a bundle"),
        (["a", "--out", "x.aiff"], ".wav"),
        (["a", "--out", "x.mp3", "--format", "wav"], "--format says wav"),
        (["a", "--out", "x.flac", "--bits", "32"], "16, 24 bits"),
        (["a", "--rate", "8000"], "Hz"),
        (["a", "--seed", "1.5"], "seeds are whole numbers with commas"),
        (["a", "--seed", "1,2"], "2 seeds for 1"),
        (["a", "--second", "5"], "unknown arguments"),
        (["a", "--window_seconds", "inf"], "window_seconds"),
        (["a", "--loudness", "3"], "loudness"),
        (["a", "--overwrite", "--skip_existing"], "exclude each other"),
        (["a", "\u200b"], "prompt 2 of 2 is empty"),
        (["--from", "/nowhere.json"], "cannot be read"),
        (["a", "--out", "/proc/nowhere/x.wav"], "cannot write"),
        (["--prompts", "/nowhere.txt"], "/nowhere.txt cannot be read"),
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
    monkeypatch.setattr(arguments_command, "REPOSITORY_BUNDLE", tmp_path / "absent")
    assert "--bundle DIR" in refused(capsys, ["generate", "a", "--out", tmp_path / "x.wav"])


def words(*command):
    return [str(word) for word in command]


def test_pieces_are_written_as_soon_as_they_exist(bundle_dir, tmp_path, capsys, monkeypatch, loaded_once):
    """Ctrl-C after the second of three: two pieces are there, one line, 130; then --skip_existing makes the third."""
    (tmp_path / "prompts.txt").write_bytes("\ufeffloud $100 drums\nflute\nviolin\n".encode())
    out = tmp_path / "music"
    command = words("generate", "--prompts", tmp_path / "prompts.txt", "--bundle", bundle_dir, "--seconds", 0.4)
    command += words("--out", out, "--batch_size", 1, "--seed", 5, "--html")
    write = Files.write

    def interrupted(self, melody, index, *rest):
        written = write(self, melody, index, *rest)
        if index == 1:
            raise KeyboardInterrupt
        return written

    with monkeypatch.context() as patch:
        patch.setattr(Files, "write", interrupted)
        assert main(command) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    names = ["0-loud-100-drums", "1-flute", "2-violin"]
    there = lambda: sorted(path.stem for path in out.glob("*.wav"))  # noqa: E731
    assert there() == names[:2] and len(list(out.glob("*.json"))) == len(list(out.glob("*.png"))) == 2
    before = (out / "0-loud-100-drums.wav").read_bytes()
    assert "exists; --overwrite" in refused(capsys, command)
    assert main([*command, "--skip_existing"]) == 0 and there() == names
    assert (out / "0-loud-100-drums.wav").read_bytes() == before
    page = (out / "index.html").read_text()
    assert all(f'src="{name}.wav"' in page for name in names)
    last = json.loads((out / "2-violin.json").read_text())
    capsys.readouterr()
    assert main([*command, "--skip_existing"]) == 0 and "all 3 pieces are there" in capsys.readouterr().out
    assert main([*command, "--overwrite"]) == 0
    again = json.loads((out / "2-violin.json").read_text())
    assert (again["seed"], again["semantic_codes"]) == (last["seed"], last["semantic_codes"])


def test_a_piece_is_changed_and_made_again(bundle_dir, tmp_path, capsys, loaded_once):
    start = words("generate", "a waltz", "--bundle", bundle_dir, "--seconds", 0.8, "--candidates", 2, "--keep_all")
    assert main([*start, "--out", str(tmp_path / "x.wav")]) == 0
    assert len(list(tmp_path.glob("x-candidate-*.wav"))) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and float(said[0].split()[1]) <= float(said[1].split()[1])  # the piece comes last
    bundle = words("--bundle", bundle_dir)
    assert main([*words("generate", "--from", tmp_path / "x.json", "--out", tmp_path / "again.wav"), *bundle]) == 0
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "x.wav").read_bytes()
    edits = {
        "continue": ["--prompt", "flute", "--seconds", "0.4"],
        "inpaint": ["--span", "0.2:0.3", "--span", "0.5:0.6"],
        "vary": ["--strength", "1"],
    }
    for name, options in edits.items():
        out = tmp_path / f"{name}.flac"
        assert main([name, str(tmp_path / "x.wav"), *options, *bundle, "--out", str(out)]) == 0
        assert (
            main([*words("generate", "--from", out.with_suffix(".json"), "--out", tmp_path / f"{name}2.flac"), *bundle])
            == 0
        )
        original, made, again = (
            soundfile.read(path)[0] for path in (tmp_path / "x.wav", out, tmp_path / f"{name}2.flac")
        )
        assert np.abs(made - again).max() < 3e-3
        if name != "vary":
            np.testing.assert_array_equal(made[:700], original[:700])
    assert main([*words("generate", "--from", tmp_path / "inpaint.json", "--steps", 3), *bundle]) == 2


def test_a_stream_ends_after_its_seconds(bundle_dir, tmp_path, capsys, loaded_once):
    out = tmp_path / "endless.wav"
    command = words("stream", "a waltz", "--bundle", bundle_dir, "--seconds", 1.5, "--out", out)
    assert main(command) == 0
    assert soundfile.info(out).frames == 6_000
    assert "exists" in refused(capsys, command)
    assert "more than 0" in refused(capsys, [*command, "--overwrite", "--seconds", "0"])
    assert "melody_jax[play]" in refused(capsys, words("play", "a waltz")) or importlib.util.find_spec("sounddevice")


def test_commands_of_given_music_refuse_in_one_line(bundle_dir, tmp_path, capsys, loaded_once):
    soundfile.write(tmp_path / "x.wav", 0.1 * np.sin(np.arange(4_000)), 4_000)
    where = words("--bundle", bundle_dir, "--out", tmp_path / "y.wav")
    for command, said in (
        (["inpaint", tmp_path / "x.wav"], "no span"),
        (["inpaint", tmp_path / "x.wav", "--span", "1"], "begin and end"),
        (["inpaint", tmp_path / "x.wav", "--span", "5:6"], "not inside"),
        (["vary", tmp_path / "x.wav", "--strength", "2"], "strength"),
        (["continue", tmp_path / "none.wav"], "cannot read the music"),
        (["continue", tmp_path / "x.wav", "--prompt", " "], "empty"),
    ):
        assert said in refused(capsys, [*command, *where])
    assert not (tmp_path / "y.wav").exists()


def test_the_default_is_the_same_in_python_and_on_the_command_line(bundle_dir, tmp_path, melody):
    assert (
        main(
            words(
                "generate",
                "a waltz",
                "--bundle",
                bundle_dir,
                "--seconds",
                0.4,
                "--seed",
                1,
                "--out",
                tmp_path / "x.wav",
            )
        )
        == 0
    )
    piece = melody.generate("a waltz", seconds=0.4, seed=1)
    info = json.loads((tmp_path / "x.json").read_text())
    assert info["settings"] == dataclasses.asdict(piece.settings) and info["semantic_codes"] == piece.tokens.tolist()
    np.testing.assert_allclose(soundfile.read(tmp_path / "x.wav")[0], piece.audio, atol=1e-4)


def test_export(model_dir, tmp_path, capsys):
    (tmp_path / "table.md").write_text("## Figures")
    options = ["--section", tmp_path / "table.md", "--licence", "none", "--trained_on", "the hymns of https://x.org"]
    options += ["--sampling", "steps=7", "--sampling", "schedule=uniform"]
    command = ["export", "--model_dir", model_dir, "--out", tmp_path / "bundle", "--dtype", "bfloat16", *options]
    assert main([str(word) for word in command]) == 0
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.sampling == {"steps": 7, "schedule": "uniform"}
    assert {part.dtype for part in bundle.parts.values()} == {"bfloat16"}
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert "## Figures" in card and "the hymns of https://x.org" in card
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
        "--sampling",
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
        (["--sampling", "steps"], "NAME=VALUE"),
        (["--sampling", "steps=0"], "steps must be"),
        (["--sampling", "colour=1"], "unknown setting"),
        (["--section", "/nowhere.md"], "cannot be read"),
        (["--tokenizer", "/nowhere.json"], "cannot be read"),
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
import melody_jax.cli.main, melody_jax.cli.music, melody_jax.generate.writer, melody_jax.generate.pipeline
print([name for name in {banned} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_bundle_and_pieces_in_a_bucket(bundle_dir, gcs_folder, gcs, capsys):
    storage.upload(bundle_dir, gcs_folder / "bundle", list(storage.files_below(bundle_dir)))
    bundle, out = gcs_folder / "bundle", gcs_folder / "music" / "x.wav"
    command = ["generate", "a slow waltz", "--bundle", bundle, "--seconds", 0.4, "--steps", 3, "--html", "--out", out]
    assert main([str(word) for word in command]) == 0
    assert str(out) in capsys.readouterr().out
    assert set(storage.files_below(out.parent)) == {"index.html", "x.json", "x.png", "x.wav"}
    assert gcs.objects["test/music/x.wav"].data.startswith(b"RIFF")
    assert 'src="x.wav"' in (out.parent / "index.html").read_text()
    assert "exists; --overwrite" in refused(capsys, command)
    assert "there is no bucket" in refused(capsys, [*command[:-1], "gs://another-bucket/x.wav"])
