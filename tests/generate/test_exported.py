"""`melody export stablehlo`: the folder makes, without this package, what `Melody.generate` makes."""

import dataclasses
import errno
import json
import os
import pathlib
import subprocess
import sys
import wave

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.bundle import export, load_part, save_part
from melody_jax.cli.main import main
from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.generate import Melody, exported
from melody_jax.generate.loudness import faded
from melody_jax.lm.network import SemanticLM
from melody_jax.samples import from_int16
from tests.generate.conftest import GEOMETRY, LM, random_weights

ROOT = pathlib.Path(__file__).parents[2]
SENTENCES = ["slow waltz", "drums"]
SEEDS = [1, 2**32 - 1]
WAYS = ["--seconds", "0.6", "--steps", "2", "--lm_guidance", "2", "--mulan_levels", "2", "--noise", "0.8"]
CACHED = {
    "JAX_COMPILATION_CACHE_DIR": os.environ.get("MELODY_TEST_CACHE", str(ROOT / ".cache" / "jax")),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
}
ALONE = """
import runpy, sys
import numpy as np
sys.modules.update(dict.fromkeys(["melody_jax", "flax", "safetensors", "jaxtyping"]))  # importing them fails
folder, out, *sentences = sys.argv[1:]
made = runpy.run_path(folder + "/sample.py")
rows = made["sample"](made["encode"](sentences), SEEDS)
np.savez(out + "/rows.npz", **rows)
sys.argv = ["sample.py", sentences[0], "--seed", str(SEEDS[0]), "--out", out + "/one.wav"]
made["main"]()
"""


def exported_by_command(bundle, out, *ways):
    """In a process of its own: a symbolic number of rows is no `int`, which the tests' type checks at run time ask for."""
    command = [
        sys.executable,
        "-m",
        "melody_jax.cli.main",
        "export",
        "stablehlo",
        "--bundle",
        bundle,
        "--out",
        out,
        *ways,
    ]
    run = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=ROOT, env=os.environ | CACHED
    )
    assert run.returncode == 0, run.stderr
    return out


@pytest.fixture(scope="module")
def folder(bundle_dir, tmp_path_factory):
    """Music of 0.6 s, longer than the clips of training: two windows of the language model and two of the diffusion."""
    return exported_by_command(bundle_dir, tmp_path_factory.mktemp("exported") / "toy", *WAYS)


def test_the_same_music_without_this_package(folder, melody, tmp_path):
    program = ALONE.replace("SEEDS", str(SEEDS))
    command = [sys.executable, "-I", "-c", program, str(folder), str(tmp_path), *SENTENCES]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | CACHED)
    assert run.returncode == 0, run.stderr
    rows = np.load(tmp_path / "rows.npz")
    ways = {"seconds": 0.6, "steps": 2, "lm_guidance": 2.0, "mulan_levels": 2, "noise": 0.8, "loudness": None}
    whole = melody.generate(SENTENCES, seed=SEEDS, **ways)
    for row, piece in enumerate(whole):
        np.testing.assert_array_equal(rows["codes"][row], piece.mulan)
        np.testing.assert_array_equal(rows["tokens"][row][: len(piece.tokens)], piece.tokens)
        sound = faded(rows["audio"][row], melody.sample_rate, True, True)
        np.testing.assert_allclose(sound, piece.audio, atol=1e-3)
        assert np.abs(sound).max() > 0.05
    assert np.abs(whole[0].audio - whole[1].audio).max() > 0.05
    with wave.open(str(tmp_path / "one.wav")) as file:
        assert (file.getframerate(), file.getnchannels()) == (melody.sample_rate, 1)
        samples = from_int16(np.frombuffer(file.readframes(file.getnframes()), "<i2"))
    np.testing.assert_allclose(samples, rows["audio"][0], atol=1e-3)


def test_programs_are_for_all_platforms_and_hold_what_they_read(folder):
    for name in ("codes", "condition", "tokens", "latents", "audio"):
        program = jax.export.deserialize(bytearray((folder / f"{name}.jax").read_bytes()))
        assert set(program.platforms) == {"cpu", "cuda", "tpu"}
        assert str(program.out_avals[0].shape[0]) == "rows"
        shapes = [
            jax.ShapeDtypeStruct([size if isinstance(size, int) else 3 for size in array.shape], array.dtype)
            for array in program.in_avals
        ]
        arguments, _ = jax.tree.unflatten(program.in_tree, shapes)
        for platform in program.platforms:  # compiled for the first of them alone: the others are not here
            lowered = jax.jit(program.call).trace(*arguments).lower(lowering_platforms=(platform,))
            assert lowered.out_info.shape[0] == 3 and "stablehlo" in lowered.as_text()
        read = set(np.load(folder / "codes.npz"))
    assert {name.split("/")[1] for name in read} >= {"text", "rvq"}
    assert not [name for name in read if name.startswith("mulan/music")]


@pytest.fixture(scope="module")
def with_controls(model_dir, tmp_path_factory):
    """The toy bundle, with a language model that knows controls, and reads beats."""
    directory = tmp_path_factory.mktemp("controls")
    config, old = dataclasses.replace(LM, controls=True, beats=True), load_part(model_dir / "lm")
    network = SemanticLM(config, Vocabulary.of(GEOMETRY, True))
    weights = random_weights(network, jnp.zeros((1, network.vocabulary.prefix + 10), jnp.int32))
    save_part(directory / "lm", "lm", weights, config, GEOMETRY, old.parents, old.training)
    parts = [model_dir / name for name in ("autoencoder", "mulan", "codes", "dpd")]
    export([*parts, directory / "lm"], directory / "bundle", tokenizer=model_dir / "tokenizer.json")
    return Melody.load(directory / "bundle")


@pytest.mark.filterwarnings("ignore:a prompt is longer")  # of letters, which are the toy tokenizer's words
def test_controls_are_asked_for_by_name(with_controls, tmp_path, monkeypatch):
    ways = ["--seconds", "0.6", "--steps", "1", "--temperature", "0"]
    exported_by_command(with_controls.bundle.directory, tmp_path / "out", *ways)
    sample = exported.sample_exported
    for cached in (sample.info, sample.program):
        cached.cache_clear()
    monkeypatch.setattr(sample, "HERE", tmp_path / "out")
    table = json.loads((tmp_path / "out" / "sampler.json").read_text())["controls"]
    assert table["drums"] == {"no": 1, "yes": 2} and table["metre"]["3/4"] == 2
    asked = {"metre": "3/4", "key": "D minor", "tempo": "96", "phase": "1", "drums": "no", "instrument_1": "flute"}
    asked |= {f"instrument_{place}": "none" for place in (2, 3, 4)}
    sentence = "a waltz for solo flute in D minor, 96 bpm"  # of which Melody reads the same, and begins with a bar
    ids = sample.encode([sentence])
    piece = with_controls.generate(sentence, seconds=0.6, steps=1, temperature=0.0)
    made = sample.sample(ids, [0], sample.control_codes(asked)[None])
    np.testing.assert_array_equal(made["tokens"][0][: len(piece.tokens)], piece.tokens)
    assert (sample.sample(ids, [0])["tokens"] != made["tokens"]).any()
    with pytest.raises(SystemExit, match="possible are no, yes"):
        sample.control_codes({"drums": "perhaps"})
    for cached in (sample.info, sample.program):
        cached.cache_clear()


def test_a_folder_of_other_things_stays(bundle_dir, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    command = ["export", "stablehlo", "--bundle", str(bundle_dir), "--out", str(tmp_path / "mine")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is no exported sampler" in error
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_what_fails_leaves_the_old_folder(folder, melody, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(exported.np, "savez", full)
    with pytest.raises(exported.UserError, match="no space left"):
        exported.export_sampler(melody, folder, melody.defaults)

    def no_room(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(exported.np, "savez", no_room)
    with pytest.raises(OSError, match="No space left"):  # as of every command: its exit code says that it is the disk
        exported.export_sampler(melody, folder, melody.defaults)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
