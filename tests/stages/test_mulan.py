"""The MuLan stage: it learns pairs, leaves a frozen tower alone, is the same on eight devices, and centres."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.mulan import minilm
from melody_jax.mulan.augment import AugmentConfig
from melody_jax.mulan.config import MuLanConfig, MusicTowerConfig, PretrainedText, TextTowerConfig
from melody_jax.nn.measured import variables
from melody_jax.parallel.batch import place_batch
from melody_jax.parallel.mesh import make_mesh
from melody_jax.stages.mulan import MuLanStage
from melody_jax.train.optim import OptimConfig
from melody_jax.train.start import initial_state

MUSIC = MusicTowerConfig(
    mels=16,
    fft=128,
    hop=40,
    patch_frequency=8,
    patch_time=8,
    stride_frequency=8,
    stride_time=8,
    width=16,
    layers=1,
    heads=2,
    mlp=32,
)
TEXT = TextTowerConfig(vocabulary=64, positions=16, width=16, layers=1, heads=2, mlp=32)
STAGE = MuLanStage(
    config=MuLanConfig(music=MUSIC, text=TEXT, text_length=4, joint=8),
    geometry=Geometry(sample_rate=4000, hop=40, token_samples=160, clip_seconds=0.4),
    # eps: gradients that are zero but for rounding (biases of keys) shall not become steps of full size.
    optim=OptimConfig(learning_rate=3e-3, warmup_steps=1, total_steps=40, schedule="constant", ema_decay=0.9, eps=1e-4),
    batch_size=8,
)


def batch(seed=0):
    """Tones whose pitch the text names."""
    rng = np.random.default_rng(seed)
    pitch = np.arange(8)
    phase = rng.uniform(0, 6, (8, 1))
    tone = np.sin(2 * np.pi * 100 * 1.4 ** pitch[:, None] * np.arange(1600) / 4000 + phase)
    tokens = np.stack([np.full(8, 1), 10 + pitch, np.full(8, 2), np.zeros(8)], axis=1)
    return {"audio": tone.astype(np.float32) * 0.3, "text_tokens": tokens.astype(np.int32)}


@functools.cache
def train_step(stage):
    return jax.jit(stage.train_step)


@functools.cache
def start(stage):
    return initial_state(stage, 0, make_mesh("data=1", jax.devices()[:1]))


def test_it_learns_which_text_belongs_to_which_tone():
    state = start(STAGE)
    before = jax.jit(STAGE.eval_step)(state, batch(99))
    for step in range(40):
        state, metrics = train_step(STAGE)(state, batch(step))
    after = jax.jit(STAGE.eval_step)(state, batch(99))
    assert float(after["loss"]) < 0.5 * float(before["loss"])
    assert float(after["recall_1"]) > 0.7 and float(after["pair_cosine"]) > float(before["pair_cosine"])
    assert set(metrics) >= {"loss", "recall_1", "scale", "gradient_norm", "learning_rate"}


def frozen_stage(monkeypatch):
    """The stage with augmentation and a frozen text tower, whose "pretrained" weights are all ones, without a package."""
    source = PretrainedText("some_package")
    shapes = jax.eval_shape(STAGE.init, jax.random.PRNGKey(0)).params["text"]
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), nn.unbox(shapes))
    monkeypatch.setattr(minilm, "load", lambda expected, config: ones if expected == source else None)
    config = dataclasses.replace(STAGE.config, train_text_tower=False, pretrained_text=source)
    augment = AugmentConfig(gain_db=6.0, roll=1.0, time_masks=1, band_masks=1)
    return dataclasses.replace(STAGE, config=config, augment=augment), ones


def test_a_frozen_text_tower_is_no_parameter_and_does_not_change(monkeypatch):
    stage, ones = frozen_stage(monkeypatch)
    state = start(stage)
    assert "text" not in state.params and "text" not in state.averaged
    state, metrics = train_step(stage)(state, batch())
    jax.tree.map(np.testing.assert_array_equal, state.frozen["text"], ones)
    assert np.isfinite(metrics["loss"])
    assert "text" not in stage.finish(state, iter([])) and stage.part()[0].pretrained_text.package == "some_package"


def test_a_step_is_a_function_of_seed_step_and_batch(monkeypatch):
    """Augmentation and dropout included: what a resumed run repeats."""
    stage, _ = frozen_stage(monkeypatch)
    state, step = start(stage), train_step(stage)
    losses = [float(step(s, batch())[1]["loss"]) for s in (state, state, state.replace(step=jnp.int32(1)))]
    assert losses[0] == losses[1] != losses[2]


def test_a_trained_text_tower_starts_from_the_pretrained_weights(monkeypatch):
    stage, ones = frozen_stage(monkeypatch)
    stage = dataclasses.replace(stage, config=dataclasses.replace(stage.config, train_text_tower=True))
    state = start(stage)
    assert state.frozen == {}
    for tree in (state.params["text"], state.averaged["text"]):
        jax.tree.map(np.testing.assert_array_equal, tree, ones)


def test_a_missing_package_is_one_sentence():
    config = dataclasses.replace(STAGE.config, pretrained_text=PretrainedText("no_such_package_here"))
    with pytest.raises(UserError, match="pip install"):
        start(dataclasses.replace(STAGE, config=config))


def test_finish_measures_the_centres():
    stage = dataclasses.replace(STAGE, config=dataclasses.replace(STAGE.config, center=True), calibration_batches=2)
    state = start(STAGE)
    embed = jax.jit(lambda params, rows: STAGE.model.apply(variables(params), rows["audio"], rows["text_tokens"]))
    plain = [embed(state.weights, batch(seed)) for seed in (1, 2)]
    params = stage.finish(state, iter([batch(1), batch(2), batch(3)]))
    want = np.concatenate([joint.music for joint in plain]).mean(axis=0)
    np.testing.assert_allclose(params["music_center"], want, atol=1e-5)
    gaps = [np.linalg.norm(np.mean(j.music - j.text, axis=0)) for j in (plain[0], embed(params, batch(1)))]
    assert gaps[1] < 0.5 * gaps[0]


def test_batch_shapes_are_global():
    placed = place_batch(batch(), make_mesh())
    for name, shape in STAGE.batch_shapes().items():
        assert placed[name].shape == shape.shape and placed[name].dtype == shape.dtype
