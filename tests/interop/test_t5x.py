"""T5X: layout and checkpoints anywhere; its train.py and infer.py where it can be imported (docs/t5x.md)."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from melody_jax import config as config_lib
from melody_jax.bundle import part as part_lib
from melody_jax.bundle.part import flatten, load_part, save_part
from melody_jax.cli import main
from melody_jax.codes import controls
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.interop import t5x_layout
from melody_jax.operations import configuration
from melody_jax.parallel.rules import spec_for
from melody_jax.train.optim import make_optimizer
from melody_jax.train.state import TrainState

ROOT = pathlib.Path(__file__).parents[2]
needs_t5x = pytest.mark.skipif(
    importlib.util.find_spec("t5x") is None, reason="T5X is not installed; docs/t5x.md says how"
)

GEOMETRY = Geometry(
    hop=480, latent_channels=4, token_samples=960, clip_seconds=0.64, mulan_tokens=3, mulan_codes=8, semantic_codes=16
)
STEPS = 6
# Of both stages, as gin bindings on top of the tiny size; the tokens that come first are the geometry's.
COMMON = {
    "geometry.Geometry.hop": 480,
    "geometry.Geometry.clip_seconds": 0.64,
    "geometry.Geometry.latent_channels": 4,
    "geometry.Geometry.mulan_tokens": 3,
    "geometry.Geometry.mulan_codes": 8,
    "geometry.Geometry.semantic_codes": 16,
    "geometry.Geometry.semantic_levels": 1,
    "TOTAL_STEPS": STEPS,
    "BATCH_SIZE": 4,
    "optim.OptimConfig.warmup_steps": 1,
}
BINDINGS = {
    "lm": {
        "lm.LMConfig.layers": 2,
        "lm.LMConfig.width": 16,
        "lm.LMConfig.heads": 2,
        "lm.LMConfig.hidden": 24,
        "lm.LMConfig.unroll": 1,
        "lm.LMConfig.window": 12,
    },
    "dpd": {
        "stage.DPDStage.clip_seconds": 0.0,
        "dpd.DPDConfig.width": 16,
        "dpd.DPDConfig.blocks": 1,
        "dpd.DPDConfig.segment": 4,
        "dpd.DPDConfig.heads": 2,
        "dpd.DPDConfig.hidden": 16,
        "dpd.DPDConfig.recurrent_width": 8,
        "dpd.DPDConfig.angle_width": 8,
    },
}
PREDICTED = {"lm": (12,), "dpd": (32, 4)}
NAMES = sorted(BINDINGS)


def bindings_of(name):
    return COMMON | BINDINGS[name]


def compose(name):
    bindings = [f"{key} = {value!r}" for key, value in bindings_of(name).items()]
    return configuration.compose(configuration.gin_files(name, "tiny", "cpu"), bindings=bindings).stage


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """A model folder with the part.json of the stages' parents."""
    folder = tmp_path_factory.mktemp("parents")
    for name in ("codes", "autoencoder"):
        (folder / name).mkdir()
        info = {"format": part_lib.FORMAT, "name": name, "config": {}, "geometry": config_lib.to_dict(GEOMETRY)}
        info |= {"id": name, "parents": {}, "training": {}, "dtype": "float32", "files": {}}
        (folder / name / part_lib.INFO_FILE).write_text(json.dumps(info))
    return folder


def part_of(name, out):
    """A part with random numbers, the measured ones among them."""
    stage = compose(name)
    state = nn.unbox(jax.eval_shape(stage.init, jax.random.PRNGKey(0)))
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, {**state.params, **state.measured})
    return save_part(out, name, params, stage.config, stage.geometry, {}, {})


def assert_same_bits(ours, theirs):
    ours, theirs = flatten(ours), flatten(theirs)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype and ours[name].shape == theirs[name].shape, name
        assert np.asarray(ours[name]).tobytes() == np.asarray(theirs[name]).tobytes(), name


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_its_axes_and_t5x_places_them_as_we_do(name):
    stage = compose(name)
    key = jax.ShapeDtypeStruct((2,), np.uint32)
    boxed = jax.eval_shape(stage.init, key)
    variables = {}
    jax.eval_shape(lambda key: variables.update(t5x_layout.initial_variables(stage, key)), key)
    assert set(variables) == {"params", "params_axes"} | ({"measured", "measured_axes"} if boxed.measured else set())
    rules = t5x_layout.logical_axis_rules()
    ours = flatten(boxed.params)
    axes = flatten(variables["params_axes"])
    assert set(axes) == {f"{leaf}_axes" for leaf in ours}
    mesh_axes = {"fsdp": "data", "tensor": "model", None: None}
    for leaf, box in ours.items():
        names = axes[f"{leaf}_axes"].names
        theirs = nn.logical_to_mesh_axes(names, rules)
        assert theirs == PartitionSpec(*(mesh_axes[axis] for axis in spec_for(names))), leaf
        assert len(names) == box.value.ndim, leaf


@pytest.mark.parametrize("name", NAMES)
def test_parts_and_checkpoints_round_trip(name, tmp_path, parents):
    before = part_of(name, tmp_path / "part")
    checkpoint = t5x_layout.export_part(load_part(tmp_path / "part"), tmp_path / "t5x", step=7)
    assert checkpoint == tmp_path / "t5x" / "checkpoint_7"
    stage = dataclasses.replace(compose(name), parents_dir=str(parents))
    after = t5x_layout.import_checkpoint(checkpoint, stage, tmp_path / "back")
    assert_same_bits(before.params, after.params)
    assert (after.config, after.geometry, after.name) == (before.config, before.geometry, name)
    assert after.training["steps"] == 7 and after.parents["codes"] == "codes"


def test_the_command_line_converts_both_ways(tmp_path, parents, capsys):
    before = part_of("lm", tmp_path / "model" / "lm" / "part")
    export = ["export", "t5x", "--model_dir", str(tmp_path / "model"), "--out", str(tmp_path / "t5x")]
    assert main.main(export) == 0
    settings = [item for key, value in bindings_of("lm").items() for item in ("--set", f"{key}={value}")]
    checkpoint = str(tmp_path / "t5x" / "lm" / "checkpoint_0")
    importing = ["import", "t5x", checkpoint, "--model", "lm", "--out", str(tmp_path / "back")]
    assert main.main([*importing, "--size", "tiny", "--model_dir", str(parents), *settings]) == 0
    assert_same_bits(before.params, load_part(tmp_path / "back").params)
    capsys.readouterr()
    assert main.main([*importing, "--size", "tiny"]) == 2
    assert "--model_dir" in capsys.readouterr().err
    assert main.main([*importing, "--drop", "x"]) == 2
    assert main.main(export) == 2  # the checkpoint is there already


def test_what_is_no_checkpoint_of_the_stage_is_refused(tmp_path, parents):
    stage = dataclasses.replace(compose("lm"), parents_dir=str(parents))
    with pytest.raises(UserError, match="no T5X checkpoint"):
        t5x_layout.import_checkpoint(tmp_path, stage, tmp_path / "out")
    part = part_of("lm", tmp_path / "part")
    checkpoint = t5x_layout.export_part(part, tmp_path / "t5x")
    wider = dataclasses.replace(stage, config=dataclasses.replace(stage.config, hidden=32))
    with pytest.raises(UserError, match=r"wrongly shaped: .*\[2, 24, 16\] instead of \[2, 32, 16\]"):
        t5x_layout.import_checkpoint(checkpoint, wider, tmp_path / "out")
    other = dataclasses.replace(compose("dpd"), parents_dir=str(parents))
    with pytest.raises(UserError, match=r"no dpd .*missing: .*extra: "):
        t5x_layout.import_checkpoint(checkpoint, other, tmp_path / "out")
    with pytest.raises(UserError, match="not codes"):
        t5x_layout.export_part(dataclasses.replace(part, name="codes"), tmp_path / "codes")
    assert not (tmp_path / "out").exists() and not (tmp_path / "codes").exists()


@pytest.fixture(scope="module")
def token_set(tmp_path_factory):
    """Version folder of a tokenised data set of random clips whose semantic tokens are their first MuLan code."""
    write_tokens = pytest.importorskip("tests.token_sets").write_tokens

    def clips(seed, count):
        rng = np.random.default_rng(seed)
        for index in range(count):
            mulan = rng.integers(0, 8, GEOMETRY.mulan_tokens).astype(np.int32)
            latents = rng.standard_normal((GEOMETRY.clip_frames, GEOMETRY.latent_channels)).astype(np.float16)
            semantic = np.full(GEOMETRY.clip_tokens, mulan[0], np.int32)
            yield {"id": f"{seed}-{index}", "family": "", "mulan": mulan, "text": mulan[None]} | {
                "semantic": semantic,
                "latents": latents,
                "controls": np.zeros(len(controls.SLOTS), np.int32),
            }

    splits = {"train": lambda: clips(1, 12), "validation": lambda: clips(2, 4), "test": lambda: clips(3, 3)}
    folder = str(tmp_path_factory.mktemp("tokens"))
    return write_tokens(folder, "small", splits, {"codes": "codes", "autoencoder": "autoencoder"}, GEOMETRY)


@pytest.mark.parametrize("name", NAMES)
def test_t5x_gets_the_batches_of_our_own_training(name, token_set):
    from data_pipelines import batches, t5x
    from data_pipelines.converters import CONVERTERS

    stage = compose(name)

    @dataclasses.dataclass
    class DatasetConfig:
        mixture_or_task_name: object = dataclasses.field(default_factory=lambda: t5x.token_task(stage, str(token_set)))
        task_feature_lengths: object = dataclasses.field(default_factory=lambda: t5x.lengths(stage))
        batch_size: int = 4
        seed: int | None = 3
        split: str = "train"

    theirs = t5x.train_batches(DatasetConfig(), 0, 1, CONVERTERS[name]).as_numpy_iterator()
    ours = batches.for_stage(stage, GEOMETRY, token_set, seed=3)
    for _ in range(5):  # into the second epoch
        jax.tree.map(np.testing.assert_array_equal, next(ours), next(theirs))


def test_packing_and_tokens_of_another_geometry_are_refused(token_set):
    from data_pipelines import t5x
    from data_pipelines.converters import LMConverter

    with pytest.raises(UserError, match="not packed"):
        LMConverter(pack=True)
    other = dataclasses.replace(compose("lm"), geometry=dataclasses.replace(GEOMETRY, semantic_codes=17))
    with pytest.raises(UserError, match="is configured for"):
        t5x.token_task(other, str(token_set))


def run_t5x(module, name, *options):
    """Output of T5X's train.py or infer.py with our gin files."""
    size = ROOT / "configs" / "sizes" / "tiny"
    files = [ROOT / "configs/t5x" / f"{name}.gin", size / "geometry.gin", size / f"{name}.gin"]
    files += [ROOT / "configs/hardware/cpu.gin", ROOT / "configs/t5x" / f"{module}.gin"]
    command = [sys.executable, "-m", f"t5x.{module}", *(f"--gin_file={file}" for file in files)]
    command += [f"--gin.{key}={value!r}" for key, value in bindings_of(name).items()]
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = subprocess.run(
        [*command, *options], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert run.returncode == 0, run.stdout[-4000:]
    return run.stdout


@needs_t5x
@pytest.mark.parametrize("name", NAMES)
def test_t5x_trains_and_samples(name, token_set, parents, tmp_path):
    """Its losses are those of our own steps; its checkpoint becomes a part, which becomes a checkpoint that it samples."""
    tokens, run = f"--gin.TOKENS={str(token_set)!r}", tmp_path / "run"
    options = [f"--gin.MODEL_DIR={str(run)!r}", "--gin.__main__.train.stats_period=1", tokens]
    log = run_t5x("train", name, *options, "--gin.__main__.train.eval_steps=1")
    losses = {int(step): float(loss) for step, loss in re.findall(r"\[(\d+)\] collection=train .*?\bloss=(\S+?),", log)}
    losses |= {
        int(step): float(loss) for step, loss in re.findall(r"\[(\d+)\] collection=train .*\bloss=([\d.]+)", log)
    }
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert "collection=training_eval/melody_" in log

    stage = dataclasses.replace(compose(name), parents_dir=str(parents))
    from data_pipelines import batches

    start = t5x_layout.import_checkpoint(run / "checkpoint_0", stage, tmp_path / "start").params
    measured = {leaf: start.pop(leaf) for leaf in jax.eval_shape(stage.init, jax.random.PRNGKey(0)).measured}
    key = jax.random.split(jax.random.PRNGKey(0))[1]  # T5X's seed 0: the second key is the trainer's
    state = TrainState.create(key, start, make_optimizer(stage.optim), ema=False, measured=measured)
    given, step = batches.for_stage(stage, GEOMETRY, token_set), jax.jit(stage.train_step)
    for number in range(1, STEPS + 1):
        state, metrics = step(state, next(given))
        np.testing.assert_allclose(metrics["loss"], losses[number], rtol=1e-5)

    end = t5x_layout.import_checkpoint(run / f"checkpoint_{STEPS}", stage, tmp_path / "end")
    checkpoint = t5x_layout.export_part(end, tmp_path / "again", step=STEPS)
    out = tmp_path / "infer"
    options = [f"--gin.CHECKPOINT_PATH={str(checkpoint)!r}", f"--gin.INFER_OUTPUT_DIR={str(out)!r}", tokens]
    run_t5x("infer", name, *options, "--gin.utils.DatasetConfig.batch_size=2")
    lines = [json.loads(line) for line in next(out.glob("*predict*00001")).read_text().splitlines()]
    assert [np.shape(line["prediction"]) for line in lines] == [PREDICTED[name]] * 3
    assert np.isfinite([line["prediction"] for line in lines]).all()
