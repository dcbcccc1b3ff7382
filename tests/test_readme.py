"""The README's commands, executed as a new user would, in order and to the letter.

Only two things are added: training takes two steps instead of its full length, and commands run from an empty folder,
so that nothing of the repository but what is installed or named can be leaned on.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import wave

import numpy as np
import pytest
import soundfile

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BIN = pathlib.Path(sys.prefix) / "bin"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SHORT = " --total_steps 2 --gin_file runs/smoke.gin"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An empty folder with a `.venv` as the README expects it, the shipped bundle, and some music of one's own."""
    folder = tmp_path_factory.mktemp("home")
    (folder / ".venv").symlink_to(sys.prefix)
    shutil.copytree(ROOT / "bundles", folder / "bundles")
    music = folder / "music"
    music.mkdir()
    rng = np.random.default_rng(0)
    t = np.arange(10 * 24_000) / 24_000
    for i in range(40):
        tone = sum(np.sin(2 * np.pi * (110 * 2 ** (rng.integers(24) / 12)) * t) for _ in range(3))
        soundfile.write(music / f"{i}.wav", 0.1 * tone, 24_000)
        (music / f"{i}.txt").write_text(f"three steady tones, number {i}")
    return folder


def _commands(text: str) -> list[str]:
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def _block(containing: str) -> str:
    return next(text for _, text in BLOCKS if containing in text)


def _run(command: str, home: pathlib.Path, folder: pathlib.Path) -> str:
    flags = {"JAX_PLATFORMS": "cpu", "HOME": str(home), "XLA_FLAGS": ""}
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax-cli")}
    ours = ("TF_CPP_MIN_LOG_LEVEL", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    user = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=user | flags | cache, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    # TensorFlow's C++ lines name the source file, absl's Python lines the logger
    assert not re.search(r"\.cc:\d+\]|InitializeLog|^\w+:absl:", done.stderr, re.MULTILINE), done.stderr
    return done.stdout


def _check_music(path: pathlib.Path, seconds: float = 10) -> None:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert len(samples) == seconds * 24_000 and np.abs(samples).max() > 300
    assert path.with_suffix(".png").stat().st_size > 5_000 and path.with_suffix(".json").stat().st_size > 100


def test_set_up_is_two_commands_and_make_train_is_the_third():
    first, second = _commands(_block("make demo"))
    assert [first.split("#")[0].strip(), second.split("#")[0].strip()] == ["make demo", "make test"]
    assert _commands(_block("make train")) == ["make train"]
    plan = subprocess.run(["make", "-n", "train"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for word in ("data corpus", "train all", "export", "evaluate"):
        assert word in plan


def test_make_demo(home):
    music = ROOT / "music"
    before = set(music.glob("*.wav"))
    output = _run(f"make demo VENV={sys.prefix}", home, ROOT)
    made = [ROOT / line.split("  ")[0] for line in output.splitlines() if ".wav  " in line]
    prompts = (ROOT / "bundles" / "demo.txt").read_text().splitlines()
    assert len(made) == len(prompts)
    for path in made:
        _check_music(path)
        if path not in before:
            for suffix in (".wav", ".png", ".json"):
                path.with_suffix(suffix).unlink()


def test_make_music(home):
    (command,) = _commands(_block('slow waltz for solo violin in D minor" --bundle'))
    _run(command, home, home)
    _check_music(home / "x.wav")


def test_python(home):
    code = next(text for kind, text in BLOCKS if kind == "python")
    same = (
        "import soundfile; from_shell = soundfile.read('x.wav')[0]\nassert abs(music.audio - from_shell).max() < 1e-4"
    )
    _run(f"{BIN}/python - <<'EOF'\n{code}\nassert music.audio.shape == (240000,)\n{same}\nEOF", home, home)


def _own_music() -> list[str]:
    """The commands from a folder of music to a bundle."""
    return [line.split("#")[0].strip() for line in _commands(_block("melody data folder"))]


def test_own_music_becomes_a_data_set(home):
    build, train, export = _own_music()
    assert "train: " in _run(build, home, home)
    assert train.startswith(".venv/bin/melody train all") and export.startswith(".venv/bin/melody export")


@pytest.mark.slow  # compiles all six stages: minutes
def test_own_music_from_folder_to_bundle(home):
    build, train, export = _own_music()
    _run(build, home, home)
    _run(train + SHORT, home, home)
    again = _run(train + SHORT, home, home)
    assert again.count("finished before") == 6
    _run(export, home, home)
    _run(".venv/bin/melody generate 'three steady tones' --bundle bundles/mine --steps 2 --out y.wav", home, home)
    assert (home / "y.wav").exists()


def test_bindings_named_in_the_text_are_bindings():
    from melody_jax.operations import configuration

    bindings = re.findall(r"`--set ([^`]+)`", README)
    assert bindings
    for binding in bindings:
        stage = binding.split(".")[0]
        configuration.compose(
            configuration.gin_files(stage, "tiny", "cpu"), bindings=[configuration.binding_of(binding)]
        )


def test_a_launch_is_shown_before_it_costs_anything(home):
    (home / "configs").symlink_to(ROOT / "configs")
    subprocess.run(["git", "init", "--quiet", str(home)], check=True)
    for command in _commands(_block("melody launch")):
        said = _run(command.partition("#")[0], home, home)
        assert "gcloud compute tpus queued-resources create melody-lm" in said
        assert "queued-resources delete melody-lm" in said
