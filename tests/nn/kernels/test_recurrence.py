"""The fused recurrence, interpreted, against the layer's plain path: results, gradients, and chips that share the work."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.nn import recurrent
from melody_jax.nn.kernels import recurrence
from melody_jax.nn.kernels.recurrence import gated_recurrence
from melody_jax.parallel import activations
from melody_jax.parallel.mesh import make_mesh
from melody_jax.parallel.rules import RULES


def _plain(candidate, forget, output, highway, biases, features):
    dtype = candidate.dtype
    candidate, forget, output, highway = (x.astype(jnp.float32) for x in (candidate, forget, output, highway))
    forget, output = (jax.nn.sigmoid(x + jnp.broadcast_to(b, x.shape)) for x, b in zip((forget, output), biases))
    inputs = (1 - forget) * candidate
    states = [
        recurrent.linear_recurrence(forget[..., half], inputs[..., half], bool(direction), "sequential")
        for direction, half in enumerate([slice(0, features), slice(features, 2 * features)])
    ]
    return (output * jnp.concatenate(states, -1) + (1 - output) * highway).astype(dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _with_gradients(function, features, arrays):
    """h and the gradients of candidate, forget, output, highway and biases, for a gradient arrays[4] of h."""
    biases = jax.random.normal(jax.random.key(3), (2, arrays.shape[-1]))
    h, pull = jax.vjp(lambda *x: function(*x, features), *arrays[:4], biases)
    return h, *pull(arrays[4])


def _random(shape, dtype="float32"):
    return (2 * jax.random.normal(jax.random.key(0), (5, *shape))).astype(dtype)


@pytest.mark.parametrize(
    "shape, features, dtype, atol",
    [
        (
            (5, 21, 256),
            128,
            "float32",
            2e-5,
        ),  # both directions; blocks of two or three rows, steps that no register divides
        ((2, 3, 16, 128), 128, "bfloat16", 0.05),  # one direction
    ],
)
def test_results_and_gradients_are_those_of_the_plain_path(monkeypatch, shape, features, dtype, atol):
    monkeypatch.setattr(recurrence, "BLOCKS_BYTES", 600_000)
    arrays = _random(shape, dtype)
    expected = _with_gradients(_plain, features, arrays.astype(jnp.float32))
    found = _with_gradients(gated_recurrence, features, arrays)
    assert [x.dtype for x in found] == [arrays.dtype] * 5 + [jnp.float32]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float32), other, atol=atol)


@pytest.mark.parametrize("mesh", ["data=2,fsdp=2,tensor=2", "data=2,tensor=4"])
def test_chips_share_rows_and_lanes(mesh):
    """Two directions of one register each: two tensor chips take one each, four do not divide them and hold both."""
    arrays = _random((4, 2, 16, 256))
    expected = _with_gradients(_plain, 128, arrays)
    with activations.placed(make_mesh(mesh), tuple(RULES.items())):
        found = jax.jit(lambda arrays: _with_gradients.__wrapped__(gated_recurrence, 128, arrays))(arrays)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("inputs", [256, 4])
def test_layer_is_the_same_fused(monkeypatch, inputs):
    """With the layer's input as the highway, and with a map of it."""
    x = jax.random.normal(jax.random.key(1), (2, 16, inputs))
    variables = nn.unbox(jax.jit(recurrent.SRULayer(128, True).init)(jax.random.key(2), x))
    variables = jax.tree.map(lambda p: p + 0.5 if p.ndim == 1 else p, variables)  # biases start at zero
    expected = jax.jit(recurrent.SRULayer(128, True).apply)(variables, x)
    layer = recurrent.SRULayer(128, True, scan="fused")
    np.testing.assert_array_equal(jax.jit(layer.apply)(variables, x), expected)  # no TPU here: the plain path
    monkeypatch.setattr(recurrent, "activations", types.SimpleNamespace(kernels_run=lambda: True))
    text = jax.jit(layer.apply).lower(variables, x).as_text(debug_info=True)
    assert "sru_forward" in text
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), expected, atol=2e-5)


def test_narrow_layers_stay_plain(monkeypatch):
    monkeypatch.setattr(recurrent, "activations", types.SimpleNamespace(kernels_run=lambda: True))
    x = jnp.ones((1, 3, 4))
    layer = recurrent.SRULayer(4, True, scan="fused")
    assert "sru_forward" not in str(jax.make_jaxpr(layer.init_with_output)(jax.random.key(0), x))
