"""The kernel of LayerNorm and activation, interpreted, against XLA's operations: results, gradients, shared work."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.nn.kernels import layer_norm
from melody_jax.nn.norm import LayerNorm
from melody_jax.parallel import activations
from melody_jax.parallel.mesh import make_mesh
from melody_jax.parallel.rules import RULES


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(layer_norm, "ROWS", 32)


def arrays(rows, dtype, batch=2):
    """x, scale, bias, the gradient of y."""
    draw = functools.partial(np.random.default_rng(0).normal, size=(batch, rows, 128))
    x, g = (jnp.asarray(draw(loc), dtype) for loc in (0.5, 0.0))
    scale, bias = (jnp.asarray(np.random.default_rng(seed).normal(1 - seed, 0.3, 128), jnp.float32) for seed in (0, 1))
    return x, scale, bias, g


@functools.partial(jax.jit, static_argnums=0)
def with_gradients(function, x, scale, bias, g):
    y, pull = jax.vjp(function, x, scale, bias)
    return y, *pull(g)


def plain(activation, x, scale, bias):
    return LayerNorm(activation=activation, fused=False).apply({"params": {"scale": scale, "bias": bias}}, x)


def fused(activation, x, scale, bias):
    return layer_norm.layer_norm(x, scale, bias, 1e-5, activation)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "silu"])
@pytest.mark.parametrize(("rows", "batch"), [(64, 2), (75, 2), (33, 8)])
def test_results_and_gradients_are_those_of_the_plain_path(activation, rows, batch):
    given = arrays(rows, "float32", batch)
    found, wanted = (with_gradients(functools.partial(f, activation), *given) for f in (fused, plain))
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)


def test_bfloat16_rounds_once():
    given = arrays(75, "bfloat16")
    exact = with_gradients(functools.partial(plain, "gelu"), *(x.astype(jnp.float32) for x in given))
    found, rounded = (with_gradients(functools.partial(f, "gelu"), *given) for f in (fused, plain))
    assert [x.dtype for x in found] == [x.dtype for x in rounded]
    for ours, theirs, wanted in zip(found, rounded, exact, strict=True):
        ours, theirs = (float(jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32) - wanted)))) for x in (ours, theirs))
        assert ours <= 1.05 * theirs and ours < 4e-3 * float(jnp.sqrt(jnp.mean(jnp.square(wanted))))


def test_chips_share_the_batch():
    given = arrays(64, "float32")
    wanted = with_gradients(functools.partial(plain, "gelu"), *given)
    mesh = make_mesh("data=2", jax.devices()[:2])
    with activations.placed(mesh, tuple(RULES.items())):
        found = jax.jit(lambda *x: with_gradients.__wrapped__(functools.partial(fused, "gelu"), *x))(*given)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)


def test_the_layer_runs_it_where_it_can(monkeypatch):
    x = arrays(64, "bfloat16")[0]

    def program(**settings):
        layer = LayerNorm(**settings)
        return str(jax.make_jaxpr(lambda: layer.apply(layer.init(jax.random.key(0), x), x))())

    assert "pallas_call" not in program(activation="gelu")
    monkeypatch.setattr(activations, "kernels_run", lambda: True)
    assert "pallas_call" in program(activation="gelu")
    assert "pallas_call" not in program(activation="gelu", fused=False)
    assert "pallas_call" not in program()
