"""The semantic stage: it learns, is the same on eight devices, repeats its steps, and measures the feature norm."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.geometry import Geometry
from melody_jax.nn.conformer import ConformerConfig
from melody_jax.nn.measured import variables
from melody_jax.parallel.mesh import make_mesh
from melody_jax.semantic.config import MelStemConfig, PretrainConfig, QuantizerConfig, SemanticConfig
from melody_jax.stages.semantic import SemanticStage
from melody_jax.train.optim import OptimConfig
from melody_jax.train.start import initial_state

CONFIG = SemanticConfig(
    stem="mel",
    mel=MelStemConfig(channels=16, mels=16, fft=256, frames=2, kernel=2),
    width=16,
    conformer=ConformerConfig(layers=2, heads=2, hidden=32, kernel=3, convolution_norm="batch", dropout=0.0),
    feature_layer=1,
    feature_norm="standard",
    quantizer=QuantizerConfig(groups=2, entries=8, width=16, temperature_decay=0.95),
    projection=16,
    pretrain=PretrainConfig(mask_probability=0.5, mask_length=2, negatives=8, cross_negatives=16),
)
STAGE = SemanticStage(
    config=CONFIG,
    geometry=Geometry(sample_rate=4000, hop=40, token_samples=160, clip_seconds=0.8),
    optim=OptimConfig(learning_rate=5e-3, warmup_steps=3, total_steps=30, schedule="constant", ema_decay=0.9),
    batch_size=8,
    calibration_batches=2,
)


def batch(seed=0):
    """Arpeggios: a frame's neighbours say what it is."""
    rng = np.random.default_rng(seed)
    root, up = rng.integers(0, 4, 8), rng.integers(0, 2, 8)
    note = (root[:, None] + np.where(up, 1, -1)[:, None] * (np.arange(3200)[None] // 320)) % 6
    phase = np.cumsum(2 * np.pi * 150 * 1.35**note / 4000, axis=1)
    return {"audio": (0.3 * np.sin(phase)).astype(np.float32)}


def start(mesh="data=1", stage=STAGE):
    return initial_state(stage, 0, make_mesh(mesh, jax.devices()[: 1 if mesh == "data=1" else 8]))


@functools.cache
def step():
    return jax.jit(STAGE.train_step)


def test_eighty_steps_on_one_batch_lower_the_loss():
    state, losses = start(), []
    for _ in range(80):
        state, metrics = step()(state, batch())
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    moved = state.measured["conformer"]["layers"]["convolution"]["depthwise_norm"]
    assert not np.allclose(moved["mean"], 0.0) and not np.allclose(moved["var"], 1.0)
    held_out = jax.jit(STAGE.eval_step)(state, batch(5))
    assert all(np.isfinite(value) for value in held_out.values())


def test_a_step_is_a_function_of_state_and_batch():
    state = start()
    (_, first), (_, again) = step()(state, batch()), step()(state, batch())
    _, later = step()(state.replace(step=jnp.int32(1)), batch())
    assert float(first["loss"]) == float(again["loss"]) != float(later["loss"])


def test_crops_are_whole_tokens():
    stage = dataclasses.replace(STAGE, crop_seconds=0.3)
    cropped = stage._crop(jax.random.PRNGKey(0), jnp.asarray(batch()["audio"]))
    assert cropped.shape == (8, 8 * 160)


def test_finish_measures_the_feature_norm():
    state = start("data=-1")
    params = STAGE.finish(state, iter([batch(1), batch(2), batch(3)]))
    audio = jnp.concatenate([jnp.asarray(batch(seed)["audio"]) for seed in (1, 2)])
    features = jax.jit(functools.partial(STAGE.model.apply, method="features"))(variables(params), audio)
    flat = np.asarray(features).reshape(-1, 16)
    np.testing.assert_allclose(flat.mean(0), 0.0, atol=1e-3)
    np.testing.assert_allclose(flat.std(0), 1.0, atol=1e-2)
