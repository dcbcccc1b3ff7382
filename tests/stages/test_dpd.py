"""The diffusion stage: what a batch is, steps that learn and resume, evaluation that is fixed, parents by id."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from melody_jax.bundle.part import save_part
from melody_jax.config import from_dict, to_dict
from melody_jax.dpd.config import DPDConfig
from melody_jax.geometry import Geometry
from melody_jax.nn.measured import variables
from melody_jax.stages.dpd import DPDStage
from melody_jax.train.optim import OptimConfig

STAGE = DPDStage(
    config=DPDConfig(
        width=16,
        blocks=1,
        segment=6,
        heads=2,
        coarse_layers=1,
        hidden=32,
        recurrent_width=8,
        recurrent_layers=1,
        recurrence="sequential",
        angle_width=8,
        chunks=2,
        data_std=0.3,
    ),
    geometry=Geometry(hop=480, latent_channels=4, clip_seconds=1.2, semantic_codes=6),
    optim=OptimConfig(learning_rate=1e-2, warmup_steps=1, total_steps=100, schedule="constant", ema_decay=0.9),
    batch_size=8,
    clip_seconds=0.4,
    grid_points=4,
)


def batch(seed=0):
    """Latents that are a function of the token: what the condition is worth."""
    rng = np.random.default_rng(seed)
    table = np.random.default_rng(9).choice([-0.3, 0.3], (6, 4)).astype(np.float32)
    tokens = np.repeat(rng.integers(0, 6, (8, 1)), 10, axis=1).astype(np.int32)
    latents = np.repeat(table[tokens], 2, axis=1) + 0.02 * rng.standard_normal((8, 20, 4)).astype(np.float32)
    return {"semantic": tokens, "latents": latents}


@functools.cache
def _steps():
    return jax.jit(STAGE.train_step), jax.jit(STAGE.eval_step)


@functools.cache
def _initial():
    return nn.unbox(jax.jit(STAGE.init)(jax.random.PRNGKey(0)))


def _train(state, first, last):
    for step in range(first, last):
        state, metrics = _steps()[0](state, batch(step))
    return state, metrics


def test_batch_shapes_are_those_of_a_training_clip():
    shapes = STAGE.batch_shapes()
    assert {name: shape.shape for name, shape in shapes.items()} == {"semantic": (8, 10), "latents": (8, 20, 4)}
    whole = dataclasses.replace(STAGE, clip_seconds=0.0).batch_shapes()
    assert whole["latents"].shape == (8, 60, 4)
    for name, array in batch().items():
        assert shapes[name].shape == array.shape and shapes[name].dtype == array.dtype


def test_learns_to_beat_the_wiener_predictor_and_to_use_its_tokens():
    state, metrics = _train(_initial(), 0, 80)
    assert bool(jnp.isfinite(metrics["loss"]))
    figures = {name: float(value) for name, value in _steps()[1](state, batch(1000)).items()}
    assert figures["velocity_error"] < figures["wiener_error"]
    assert figures["velocity_error"] < 0.9 * figures["shuffled_velocity_error"]
    assert figures["velocity_error"] < figures["unconditional_velocity_error"]
    again = _steps()[1](state, batch(1000))
    assert {name: float(value) for name, value in again.items()} == figures


def test_learns_from_a_prompt_what_the_tokens_do_not_tell():
    """Latents that are a function of the first MuLan code, the tokens being all alike."""
    stage = dataclasses.replace(STAGE, config=dataclasses.replace(STAGE.config, prompt=True), text_share=0.0)
    table = np.random.default_rng(9).choice([-0.3, 0.3], (4, 4)).astype(np.float32)

    def told(seed):
        rng = np.random.default_rng(seed)
        arrays = {name: rng.integers(0, 4, shape.shape) for name, shape in stage.batch_shapes().items()}
        latents = np.repeat(table[arrays["mulan"][:, :1]], 20, axis=1)
        return {**arrays, "semantic": 0 * arrays["semantic"], "controls": 0 * arrays["controls"], "latents": latents}

    assert sorted(told(0)) == ["controls", "latents", "mulan", "semantic", "text"]
    state, step = nn.unbox(jax.jit(stage.init)(jax.random.PRNGKey(0))), jax.jit(stage.train_step)
    for seed in range(80):
        state, _ = step(state, told(seed))
    figures = jax.jit(stage.eval_step)(state, told(1000))
    assert figures["velocity_error"] < 0.9 * figures["shuffled_velocity_error"]


def test_resumed_equals_uninterrupted():
    whole, _ = _train(_initial(), 0, 4)
    half, _ = _train(_initial(), 0, 2)
    resumed, _ = _train(jax.tree.map(jnp.asarray, jax.device_get(half)), 2, 4)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(resumed))
    assert int(resumed.step) == 4


def test_the_part_carries_averages_and_parents(tmp_path):
    state = _initial()
    params = STAGE.finish(state, itertools.repeat(batch()))
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(state.ema))
    for name in ("codes", "autoencoder"):
        save_part(tmp_path / name, name, {"w": np.zeros(2, np.float32)}, STAGE.config, STAGE.geometry, {}, {"steps": 1})
    config, geometry, parents = dataclasses.replace(STAGE, parents_dir=str(tmp_path)).part()
    assert from_dict(DPDConfig, to_dict(config)) == STAGE.config and geometry == STAGE.geometry
    assert sorted(parents) == ["autoencoder", "codes"] and all(parents.values())


PRECONDITIONED = dataclasses.replace(
    STAGE, config=dataclasses.replace(STAGE.config, precondition="linear", nearness=4.0)
)


def test_what_is_measured_frames_the_network():
    stage = dataclasses.replace(PRECONDITIONED, calibration_batches=20)
    empty = nn.unbox(jax.jit(stage.init)(jax.random.PRNGKey(0)))
    data = map(batch, itertools.count())
    state = jax.tree.map(jnp.asarray, stage.calibrate(empty, data))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, empty)
    assert "linear" not in state.params and float(state.measured["linear"]["variance"].max()) > 1.5
    assert float(state.measured["linear"]["told_variance"].max()) < 0.5  # the tokens say all but the noise
    evaluate = jax.jit(stage.eval_step)
    figures = {name: float(value) for name, value in evaluate(state, batch(1000)).items()}
    assert figures["velocity_error"] < 0.3 * figures["wiener_error"]  # before the first step
    assert figures["velocity_error"] < 0.3 * figures["unconditional_velocity_error"]
    # without tokens it is the Wiener predictor, of all channels together and not fitted to this very batch
    assert figures["unconditional_velocity_error"] < 1.1 * figures["wiener_error"]
    step = jax.jit(stage.train_step)
    for _ in range(20):
        state, metrics = step(state, next(data))
    assert bool(jnp.isfinite(metrics["loss"]))
    params = jax.device_get(stage.finish(state, data))
    np.testing.assert_array_equal(params["linear"]["axes"], state.measured["linear"]["axes"])
    latents = jnp.zeros((1, 20, 4))
    whole = variables(jax.tree.map(jnp.asarray, params))
    velocity = jax.jit(stage.model.apply)(whole, latents, latents[..., 0], jnp.zeros((1, 10), jnp.int32))
    assert bool(jnp.all(jnp.isfinite(velocity)))
