"""Training that starts from a part: right weights in the right places, refusals that name what does not fit."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.bundle import load_part, save_part
from melody_jax.bundle.part import flatten
from melody_jax.cli import main
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.interop import huggingface
from melody_jax.operations import configuration
from melody_jax.operations.training import _starts
from melody_jax.parallel.mesh import make_mesh
from melody_jax.stages.mulan import MuLanStage
from melody_jax.train.optim import OptimConfig
from melody_jax.train.start import initial_state, start_from
from melody_jax.train.state import TrainState
from tests.interop import folders
from tests.mulan import tiny
from tests.train import regression

SMALL = {"positions": 12, "layers": 2, "width": 16, "heads": 2, "mlp": 24, "vocabulary": 50}
STAGE = MuLanStage(
    config=dataclasses.replace(tiny.CONFIG, text=dataclasses.replace(tiny.TEXT, **SMALL), text_length=4),
    geometry=tiny.GEOMETRY,
    optim=OptimConfig(ema_decay=0.9),
    batch_size=8,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    regression.run(folder)
    return folder / "regression"


@pytest.fixture
def bert(tmp_path):
    return huggingface.import_folder(folders.write(tmp_path / "theirs", "bert"), tmp_path / "bert")[0]


def without_measured(part):
    return {name: x for name, x in flatten(part.params).items() if name not in ("mean", "calibration")}


@dataclasses.dataclass(frozen=True)
class Continued(regression.RegressionStage):
    def init(self, key):
        return super().init(key).replace(measured={"mean": jnp.zeros(8), "calibration": jnp.zeros(())})


def test_a_run_starts_where_another_ended(trained, tmp_path):
    """With a learning rate of 0 it ends there too; a restart does not need the part any more."""
    source = shutil.copytree(trained, tmp_path / "source")
    still = Continued(optim=OptimConfig(learning_rate=0.0, ema_decay=0.9, total_steps=14))
    part = regression.run(tmp_path / "new", stage=still, total_steps=14, init_from=(str(source),))
    old = load_part(trained)
    for name, expected in without_measured(old).items():
        np.testing.assert_allclose(flatten(part.params)[name], expected, rtol=1e-6, err_msg=name)
    numbers = sum(x.size for x in without_measured(old).values())
    assert part.training["init_from"] == [{"part": "regression", "id": old.id, "parameters": numbers}]
    shutil.rmtree(source)
    longer = regression.run(tmp_path / "new", stage=still, total_steps=16, init_from=(str(source),))
    assert longer.training["init_from"] == part.training["init_from"]


def test_new_residual_layers_begin_as_the_identity(tmp_path):
    """A diffusion model with a second coarse layer in every block says what the one with a single one said."""
    stage = configuration.compose(configuration.gin_files("dpd", "tiny", "cpu")).stage
    shape = {"blocks": 2, "width": 32, "precondition": "none", "prompt": False}
    one, two = (
        dataclasses.replace(stage, config=dataclasses.replace(stage.config, coarse_layers=layers, **shape))
        for layers in (1, 2)
    )
    mesh = make_mesh("data=1", jax.devices()[:1])
    params = jax.tree.map(np.asarray, initial_state(one, 1, mesh).params)
    save_part(tmp_path / "part", "dpd", params, one.config, one.geometry, {}, {})
    state, record = start_from(two, initial_state(two, 0, mesh), [str(tmp_path / "part")])
    assert (
        record[0]["parameters"]
        == sum(x.size for x in flatten(params).values())
        < sum(x.size for x in flatten(state.params).values())
    )
    draw, sizes = np.random.default_rng(0), one.geometry
    noisy = draw.normal(size=(2, 8 * sizes.frames_per_token, sizes.latent_channels)).astype(np.float32)
    angles, tokens = np.full(noisy.shape[:2], 0.7, np.float32), draw.integers(0, 9, (2, 8 * sizes.semantic_levels))
    given = jnp.asarray(noisy), jnp.asarray(angles), jnp.asarray(tokens)
    said = [
        jax.jit(s.model.apply)({"params": jax.tree.map(jnp.asarray, p)}, *given)
        for s, p in ((one, params), (two, state.params))
    ]
    np.testing.assert_allclose(*said, atol=1e-5)
    assert np.abs(said[0]).max() > 1e-2


def test_bert_becomes_the_text_tower_on_a_mesh(bert, tmp_path):
    state = initial_state(STAGE, 0, make_mesh("data=2,fsdp=4"))
    started, record = start_from(STAGE, state, [str(tmp_path / "bert")])
    before, after, average = (flatten(tree) for tree in (state.params, started.params, started.ema))
    theirs = {f"text/{name}": x for name, x in flatten(bert.params).items() if not name.startswith("unused")}
    assert record[0]["parameters"] == sum(x[:12].size if "position" in name else x.size for name, x in theirs.items())
    for name, x in after.items():
        assert x.sharding == before[name].sharding
        if name in theirs:
            expected = theirs[name][:12] if name == "text/position/embedding" else theirs[name]
            np.testing.assert_array_equal(x, expected, err_msg=name)
        else:
            np.testing.assert_array_equal(x, before[name], err_msg=name)
        np.testing.assert_array_equal(average[name], x, err_msg=name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 32}, "text/embedding_norm/bias [16] instead of [32]"),
        ({"layers": 1}, "[2, 16, 24] instead of [1, 16, 24]"),
        ({"positions": 21}, "text/position/embedding [20, 16] instead of [21, 16]"),
    ],
)
def test_other_shapes_are_named(bert, tmp_path, change, said):
    text = dataclasses.replace(STAGE.config.text, **change)
    stage = dataclasses.replace(STAGE, config=dataclasses.replace(STAGE.config, text=text))
    state = initial_state(stage, 0, make_mesh("data=-1"))
    with pytest.raises(UserError) as caught:
        start_from(stage, state, [str(tmp_path / "bert")])
    assert said in str(caught.value)


def test_other_parts_are_refused(trained, bert, tmp_path):
    state = initial_state(STAGE, 0, make_mesh("data=-1"))
    with pytest.raises(UserError, match="is a regression; mulan starts from mulan or bert or ast"):
        start_from(STAGE, state, [str(trained)])
    save_part(tmp_path / "odd", "bert", {"odd": np.zeros(3)}, {}, Geometry(), {}, {})
    with pytest.raises(UserError, match="mulan has no parameters text/odd"):
        start_from(STAGE, state, [str(tmp_path / "odd")])


def test_the_command_line_imports_folders_and_finds_takers(trained, tmp_path):
    folder = folders.write(tmp_path / "theirs", "bert")
    stages = {"mulan": STAGE, "regression": regression.RegressionStage()}
    starts = _starts([str(folder), str(trained)], stages, tmp_path / "models")
    assert load_part(starts["mulan"][0]).name == "bert" and starts["regression"] == [str(trained)]
    with pytest.raises(UserError, match="is a bert: no stage of this run starts from it"):
        _starts([str(folder)], {"regression": regression.RegressionStage()}, tmp_path / "models")
    with pytest.raises(UserError, match="is not a part"):
        _starts([str(tmp_path / "nowhere")], stages, tmp_path / "models")


def test_bad_arguments_of_import(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main.main(["import", "hf", str(tmp_path), "--model", "bert", *out]) == 2
    assert "no Hugging Face folder" in capsys.readouterr().err
    assert main.main(["import", "onnx", str(tmp_path), "--model", "bert", *out]) == 2
    assert main.main(["import", "hf", str(tmp_path), *out]) == 2
    assert not (tmp_path / "out").exists()


@dataclasses.dataclass(frozen=True)
class TwoPlayers(regression.RegressionStage):
    """Parameters as the autoencoder's: of the second player there may be none."""

    starts = {"one": "generator"}
    averaged_part = "generator"


def test_an_empty_branch_of_the_parameters_survives(tmp_path):
    """The optimiser's state has it too: a tree without it is another tree."""
    save_part(tmp_path / "one", "one", {"w": np.ones(3, np.float32)}, {}, Geometry(), {}, {})
    params = {"generator": {"w": jnp.zeros(3), "b": jnp.zeros(2)}, "discriminator": {}}
    empty = {"opt_state": {}, "extra": {}, "frozen": {}, "key": jax.random.PRNGKey(0), "step": jnp.zeros((), jnp.int32)}
    state = TrainState(params=params, ema=params["generator"], **empty)
    started, _ = start_from(TwoPlayers(), state, [str(tmp_path / "one")])
    assert jax.tree.structure(started) == jax.tree.structure(state)
    assert started.params["discriminator"] == {}
    for weights in (started.params["generator"], started.ema):
        assert weights["w"].tolist() == [1, 1, 1] and weights["b"].tolist() == [0, 0]


def test_a_bundle_stands_for_its_own_part_of_each_stage(tmp_path):
    bundle = configuration.configs_directory().parent / "bundles" / "tiny"
    assert _starts([str(bundle)], {"mulan": STAGE}, tmp_path) == {"mulan": [str(bundle / "mulan")]}
    with pytest.raises(UserError, match="is a bundle that holds none of regression"):
        _starts([str(bundle)], {"regression": regression.RegressionStage()}, tmp_path)
