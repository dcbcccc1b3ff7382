"""The codes stage: its parents are read, both codebooks learn, steps resume, devices agree."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.bundle.part import save_part
from melody_jax.codes import kmeans, rvq
from melody_jax.codes.config import CodesConfig
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.mulan.config import MuLanConfig, MusicTowerConfig, TextTowerConfig
from melody_jax.mulan.network import MuLan
from melody_jax.nn.conformer import ConformerConfig
from melody_jax.nn.measured import MEASURED, joined
from melody_jax.parallel.mesh import make_mesh
from melody_jax.semantic.config import MelStemConfig, SemanticConfig
from melody_jax.semantic.network import SemanticEncoder
from melody_jax.stages.codes import CodesStage
from melody_jax.train.optim import OptimConfig
from melody_jax.train.start import initial_state
from melody_jax.train.steps import Steps

GEOMETRY = Geometry(
    sample_rate=4000, hop=40, token_samples=160, clip_seconds=0.8, mulan_tokens=3, mulan_codes=8, semantic_codes=8
)
SEMANTIC = SemanticConfig(
    stem="mel",
    mel=MelStemConfig(channels=8, mels=8, fft=256, frames=2, kernel=2),
    width=8,
    conformer=ConformerConfig(layers=1, heads=1, hidden=8, kernel=3, convolution_norm="rms"),
    feature_layer=1,
    feature_norm="layer",
)
MULAN = MuLanConfig(
    music=MusicTowerConfig(
        mels=16, fft=128, hop=40, patch_frequency=8, patch_time=8, stride_frequency=8, stride_time=8,
        width=8, layers=1, heads=1, mlp=8,
    ),
    text=TextTowerConfig(vocabulary=8, positions=4, width=8, layers=1, heads=1, mlp=8),
    text_length=4,
    joint=4,
)  # fmt: skip


def batch(seed=0):
    """Noise of many colours."""
    rng = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * rng.uniform(50, 1500, (8, 1)) * np.arange(3200) / 4000)
    return {"audio": (0.2 * tone + 0.05 * rng.normal(size=(8, 3200))).astype(np.float32)}


CONFIG = CodesConfig(
    frames_per_clip=10, frame_memory=200, clip_memory=50, seed_step=3, updates=2, decay=0.5, dead_below=0.1
)


def save_parents(folder):
    """Parts "semantic" and "mulan" with random weights."""
    key, audio = jax.random.PRNGKey(0), batch()["audio"]
    semantic = jax.jit(functools.partial(SemanticEncoder(SEMANTIC, GEOMETRY).init, method="features"))(key, audio)
    mulan = jax.jit(functools.partial(MuLan(MULAN, GEOMETRY).init, method="embed_music"))(key, audio)
    for name, variables, config in (("semantic", semantic, SEMANTIC), ("mulan", mulan, MULAN)):
        variables = jax.device_get(nn.unbox(variables))
        params = joined(variables["params"], variables.get(MEASURED, {}))
        save_part(folder / name, name, params, config, GEOMETRY, {}, {})


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    save_parents(folder)
    return CodesStage(CONFIG, GEOMETRY, OptimConfig(), batch_size=8, parents_dir=str(folder))


@pytest.fixture(scope="module")
def run(stage):
    """The state before and after each of eight steps, and the metrics."""
    mesh = make_mesh("data=1", jax.devices()[:1])
    step = jax.jit(stage.train_step)
    states, measured = [initial_state(stage, 0, mesh)], []
    for seed in range(8):
        state, metrics = step(states[-1], batch(seed))
        states.append(state)
        measured.append({name: float(value) for name, value in metrics.items()})
    return step, states, measured


def test_both_codebooks_learn_after_the_memory_has_filled(stage, run):
    _, states, measured = run
    assert [m["kmeans_error"] for m in measured[:3]] == [1.0] * 3 and not np.any(states[3].params["rvq"])
    assert measured[-1]["kmeans_error"] < 0.5 and measured[-1]["rvq_error"] < measured[-1]["rvq_error_1"] < 0.8
    assert measured[-1]["kmeans_used"] == 1.0 and int(states[-1].step) == 8
    params = stage.finish(states[-1], iter([]))
    assert {name: book.shape for name, book in params.items()} == {"kmeans": (1, 8, 8), "rvq": (3, 8, 4)}
    assert states[-1].opt_state["frames"].shape == (240, 8) and states[-1].opt_state["clips"].shape == (56, 4)


def test_a_resumed_step_is_the_same(run):
    step, states, _ = run
    again, _ = step(states[5], batch(5))
    jax.tree.map(np.testing.assert_array_equal, again.params, states[6].params)
    jax.tree.map(np.testing.assert_array_equal, again.opt_state, states[6].opt_state)


def test_held_out_metrics_are_those_of_the_codebooks(stage, run):
    _, states, _ = run
    metrics = jax.jit(stage.eval_step)(states[-1], batch(99))
    features, joint = stage._encode(states[-1].frozen, jnp.asarray(batch(99)["audio"]))
    frames = np.asarray(features).reshape(-1, 8)
    codes = np.asarray(kmeans.assign(states[-1].params["kmeans"][0], jnp.asarray(frames)))
    left = frames - np.asarray(states[-1].params["kmeans"])[0][codes]
    want = (left**2).sum(-1).mean() / frames.var(0).sum()
    np.testing.assert_allclose(metrics["kmeans_error_1"], want, rtol=1e-4)
    assert float(metrics["kmeans_used"]) == len(set(codes.tolist())) / 8
    decoded = rvq.decode(states[-1].params["rvq"], rvq.encode(states[-1].params["rvq"], joint))
    want = np.square(np.asarray(joint - decoded)).sum(-1).mean() / np.asarray(joint).var(0).sum()
    np.testing.assert_allclose(metrics["rvq_error_3"], want, rtol=1e-4)


def test_eight_devices_give_the_numbers_of_one(stage, run):
    _, states, _ = run
    mesh = make_mesh("data=4,fsdp=2")
    steps = Steps(stage, mesh, initial_state(stage, 0, mesh))
    for seed in range(5):
        steps.dispatch(batch(seed))
    steps.read()
    for a, b in zip(jax.tree.leaves(states[5].params), jax.tree.leaves(steps.state.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_parents_are_named_and_must_be_there(stage, tmp_path):
    _, geometry, parents = stage.part()
    assert set(parents) == {"mulan", "semantic"} and geometry == GEOMETRY
    with pytest.raises(UserError, match="not a part"):
        dataclasses.replace(stage, parents_dir=str(tmp_path)).part()
