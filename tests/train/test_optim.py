"""Schedules, decay masks, accumulation and the moving average against numbers derived by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from melody_jax.errors import UserError
from melody_jax.train.optim import OptimConfig, make_optimizer, make_schedule, update_ema


def test_cosine_warms_up_and_ends_at_the_final_fraction():
    schedule = make_schedule(
        OptimConfig(learning_rate=2.0, warmup_steps=4, total_steps=104, final_fraction=0.1, schedule="cosine")
    )
    rates = [float(schedule(jnp.int32(step))) for step in (0, 1, 3, 4, 54, 104, 200)]
    np.testing.assert_allclose(rates, [0.5, 1.0, 2.0, 2.0, 2.0 * 0.55, 0.2, 0.2], rtol=1e-6)
    linear = make_schedule(OptimConfig(learning_rate=1.0, warmup_steps=0, total_steps=10, schedule="linear"))
    assert float(linear(jnp.int32(5))) == pytest.approx(0.5)


def test_unknown_schedule_is_refused():
    with pytest.raises(UserError, match="schedule 'step'"):
        OptimConfig(schedule="step")


def _updated(config, params, gradients):
    optimizer = make_optimizer(config)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_weight_decay_spares_biases_and_scales_of_scanned_layers():
    params = {"layers": {name: jnp.ones((3, 4)) for name in ("kernel", "bias", "scale")}}
    config = OptimConfig(learning_rate=0.1, weight_decay=0.5, warmup_steps=0, schedule="constant")
    after = _updated(config, params, [jax.tree.map(jnp.zeros_like, params)])["layers"]
    np.testing.assert_allclose(after["kernel"], 1 - 0.1 * 0.5, rtol=1e-6)
    assert (after["bias"] == 1).all() and (after["scale"] == 1).all()


def test_accumulation_is_the_large_batch():
    config = dict(learning_rate=0.1, warmup_steps=0, schedule="constant", clip_norm=0.5)
    params = {"kernel": jnp.ones((2, 2))}
    halves = [{"kernel": jnp.full((2, 2), value)} for value in (1.0, -0.25)]
    whole = _updated(OptimConfig(**config), params, [{"kernel": jnp.full((2, 2), 0.375)}])
    parts = _updated(OptimConfig(**config, accumulate=2), params, halves)
    np.testing.assert_allclose(parts["kernel"], whole["kernel"], rtol=1e-6)
    # the first half alone moves nothing
    assert (_updated(OptimConfig(**config, accumulate=2), params, halves[:1])["kernel"] == 1).all()


def test_accumulated_schedule_counts_loop_steps():
    config = OptimConfig(learning_rate=1.0, warmup_steps=8, weight_decay=0.0, clip_norm=0.0, accumulate=4)
    params = {"kernel": jnp.zeros((2, 2))}
    after = _updated(config, params, [{"kernel": jnp.ones((2, 2))}] * 8)
    # two updates of Adam's unit step, at steps 0 and 4 of the loop
    np.testing.assert_allclose(after["kernel"], -(1 / 8 + 5 / 8), rtol=1e-4)


def test_boxed_parameters_pass_through():
    boxed = {"kernel": nn.LogicallyPartitioned(jnp.ones((2, 2)), ("embed", "mlp"))}
    state = make_optimizer(OptimConfig()).init(boxed)
    names = [
        leaf.names
        for leaf in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
        if isinstance(leaf, nn.LogicallyPartitioned)
    ]
    assert names == [("embed", "mlp")] * 2


def test_ema_decay_warms_up():
    ema = {"a": jnp.zeros(())}
    ema = update_ema(ema, {"a": jnp.ones(())}, 0.999, jnp.int32(0))
    np.testing.assert_allclose(ema["a"], 0.9, rtol=1e-6)  # decay 1/10
    ema = update_ema(ema, {"a": jnp.zeros(())}, 0.999, jnp.int32(10**6))
    np.testing.assert_allclose(ema["a"], 0.9 * 0.999, rtol=1e-6)


def test_muon_moves_every_direction_of_a_matrix_alike_and_the_rest_as_adam():
    key = jax.random.PRNGKey(0)
    # of rank 1 but for a little: AdamW's step and the raw gradient follow the one strong direction
    strong = jnp.outer(jnp.arange(1.0, 9.0), jnp.ones(6))
    gradients = {
        "kernel": jnp.stack([strong, 3.0 * strong]) + 0.1 * jax.random.normal(key, (2, 8, 6)),
        "bias": jnp.ones((2, 6)),
        "embedding": jnp.ones((5, 6)),
    }
    params = jax.tree.map(jnp.zeros_like, gradients)
    settings = dict(learning_rate=0.1, warmup_steps=0, schedule="constant", weight_decay=0.0, clip_norm=0.0)
    muon, adamw = (_updated(OptimConfig(**settings, optimizer=name), params, [gradients]) for name in ("muon", "adamw"))
    nadam = optax.nadamw(0.1, b1=0.9, b2=0.98, weight_decay=0.0)
    rest = {name: gradients[name] for name in ("bias", "embedding")}
    with jax.numpy_dtype_promotion("standard"):
        expected, _ = nadam.update(rest, nadam.init(rest), rest)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), {n: muon[n] for n in rest}, dict(expected))
    for layer in range(2):  # each of the layers of a scan is a matrix of its own
        singular = np.linalg.svd(muon["kernel"][layer], compute_uv=False)
        scale = 0.1 * 0.2 * np.sqrt(8)
        assert (singular > 0.25 * scale).all() and (singular < 1.5 * scale).all(), singular / scale
        spread = np.linalg.svd(adamw["kernel"][layer], compute_uv=False)
        assert spread[-1] < 0.1 * spread[0]


def test_unknown_optimizer_is_refused():
    with pytest.raises(UserError, match="adamw or muon, got 'sgd'"):
        OptimConfig(optimizer="sgd")
