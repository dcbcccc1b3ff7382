"""The SRU against the recurrence written as a loop, and its two ways of running against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.nn.recurrent import SRU, SRULayer, linear_recurrence


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _loop(weights, x):
    """One direction of one layer on x [K, I], step by step from the equations; weights [name -> (W, b)] in float64."""
    (wc, _), (wf, bf), (wr, br), (wh, _) = (weights[n] for n in ("candidate", "forget", "output", "highway"))
    state, rows = np.zeros(wc.shape[1]), []
    for now in x:
        f, r = _sigmoid(now @ wf + bf), _sigmoid(now @ wr + br)
        state = f * state + (1 - f) * (now @ wc)
        rows.append(r * state + (1 - r) * (now if wh is None else now @ wh))
    return np.stack(rows)


def _direction(params, columns):
    """Weights of one direction: a slice of every map's columns."""
    weights = {"highway": (None, None)}
    for name, map_ in params.items():
        kernel = np.asarray(map_["kernel"], np.float64)[:, columns]
        bias = np.asarray(map_["bias"], np.float64)[columns] if "bias" in map_ else 0.0
        weights[name] = (kernel, bias)
    return weights


def _random(module, x):
    variables = nn.unbox(jax.jit(module.init)(jax.random.key(0), x))
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [jnp.asarray(0.5 * rng.standard_normal(p.shape), jnp.float32) for p in leaves])


@pytest.mark.parametrize("scan", ["associative", "sequential"])
@pytest.mark.parametrize("inputs", [6, 3])
def test_unidirectional_layer_is_the_loop(scan, inputs):
    x = jax.random.normal(jax.random.key(0), (2, 7, inputs))
    module = SRULayer(6, scan=scan)
    variables = _random(module, x)
    expected = np.stack([_loop(_direction(variables["params"], slice(0, 6)), row) for row in np.asarray(x)])
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x), expected, atol=2e-5)


@pytest.mark.parametrize("scan", ["associative", "sequential"])
def test_bidirectional_layer_is_two_loops(scan):
    """The first half of the width runs forwards, the second from the end; both see the whole input."""
    x = jax.random.normal(jax.random.key(1), (2, 3, 7, 5))
    module = SRULayer(4, bidirectional=True, scan=scan)
    variables = _random(module, x)
    y = np.asarray(jax.jit(module.apply)(variables, x))
    x = np.asarray(x)
    for index in np.ndindex(2, 3):
        forwards = _loop(_direction(variables["params"], slice(0, 4)), x[index])
        backwards = _loop(_direction(variables["params"], slice(4, 8)), x[index][::-1])[::-1]
        np.testing.assert_allclose(y[index], np.concatenate([forwards, backwards], -1), atol=2e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 5, 16, 33])
def test_recurrence_scans_agree(length, reverse):
    decay = jax.random.uniform(jax.random.key(length), (3, length, 4))
    inputs, weights = jax.random.normal(jax.random.key(1), (2, 3, length, 4))
    states, expected = [], np.zeros((3, 4), np.float64)
    for t in reversed(range(length)) if reverse else range(length):
        expected = decay[:, t] * expected + inputs[:, t]
        states.append(expected)
    states = np.stack(states[::-1] if reverse else states, axis=1)

    def weighted(decay, inputs, scan):
        states = linear_recurrence(decay, inputs, reverse, scan)
        return jnp.sum(weights * states), states

    gradients = {}
    for scan in ("associative", "sequential"):
        run = jax.jit(jax.grad(weighted, (0, 1), has_aux=True), static_argnums=2)
        gradients[scan], found = run(decay, inputs, scan)
        np.testing.assert_allclose(found, states, atol=1e-5)
    for one, other in zip(gradients["associative"], gradients["sequential"]):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_recurrence_gradient_is_the_derivative(reverse):
    """Against automatic differentiation of the recurrence written out."""
    decay, inputs, weights = jax.random.uniform(jax.random.key(5), (3, 2, 6, 2))

    def written_out(decay, inputs):
        state, total = jnp.zeros((2, 2)), jnp.float32(0)
        for t in reversed(range(6)) if reverse else range(6):
            state = decay[:, t] * state + inputs[:, t]
            total = total + jnp.sum(weights[:, t] * state)
        return total

    def ours(decay, inputs):
        return jnp.sum(weights * linear_recurrence(decay, inputs, reverse, "associative"))

    expected, found = (jax.jit(jax.grad(f, (0, 1)))(decay, inputs) for f in (written_out, ours))
    for one, other in zip(expected, found):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_two_bidirectional_layers_agree_in_both_scans_and_finite_in_bfloat16():
    x = jax.random.normal(jax.random.key(2), (2, 3, 9, 8))
    build = {scan: SRU(4, True, 2, scan) for scan in ("associative", "sequential")}
    variables = _random(build["associative"], x)
    values = {scan: np.asarray(jax.jit(module.apply)(variables, x)) for scan, module in build.items()}
    assert values["associative"].shape == (2, 3, 9, 8)
    np.testing.assert_allclose(values["associative"], values["sequential"], atol=1e-5)
    half = jax.jit(SRU(4, True, 2, "sequential", dtype="bfloat16").apply)(variables, x)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(half, np.float32), values["sequential"], atol=0.15)
