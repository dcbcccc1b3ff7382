"""The Conformer: distances, shift, depth, batch norm, remat."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.errors import UserError
from melody_jax.nn.conformer import (
    BatchNorm,
    Conformer,
    ConformerConfig,
    SelfAttention,
    relative_positions,
    shift_relative,
)
from melody_jax.nn.measured import MEASURED

CONFIG = ConformerConfig(layers=2, heads=2, hidden=16, kernel=3, convolution_norm="layer", dropout=0.0)
X = jax.random.normal(jax.random.PRNGKey(0), (2, 7, 8))


@functools.cache
def model(**changes):
    module = Conformer(dataclasses.replace(CONFIG, **changes))
    variables = nn.unbox(jax.jit(module.init)(jax.random.PRNGKey(1), X))
    return variables, jax.jit(module.apply, static_argnames=("train", "depth"))


@pytest.mark.parametrize(("positions", "invariant"), [("rotary", True), ("relative", True), ("rotary_input", False)])
def test_attention_sees_distances_alone(positions, invariant):
    """Frames moved two places later, with padding before them, attend to one another as before."""
    module = SelfAttention(dataclasses.replace(CONFIG, positions=positions))
    variables = jax.jit(module.init)(jax.random.PRNGKey(1), X, None)
    attention = jax.jit(module.apply)
    moved = jnp.pad(X, ((0, 0), (2, 0), (0, 0)))
    mask = jnp.arange(9)[None] >= jnp.array([[2], [2]])
    gap = jnp.max(jnp.abs(attention(variables, moved, mask)[:, 2:] - attention(variables, X, None)))
    assert (float(gap) < 1e-5) == invariant


def test_relative_shift_picks_the_distance():
    """Scores that say their distance come out as i - j."""
    table = jnp.broadcast_to(jnp.arange(3.0, -4.0, -1.0), (1, 1, 4, 7))
    want = np.arange(4)[:, None] - np.arange(4)[None]
    np.testing.assert_array_equal(shift_relative(table)[0, 0], want)


def test_relative_positions_are_sinusoids_of_the_distance():
    table = relative_positions(3, 4)
    for row, distance in enumerate([2, 1, 0, -1, -2]):
        want = [np.sin(distance), np.cos(distance), np.sin(distance / 100), np.cos(distance / 100)]
        np.testing.assert_allclose(table[row], want, atol=1e-6)


def test_depth_is_the_output_of_that_block():
    variables, apply = model()
    lower, _ = jax.tree.map(lambda stacked: stacked[:1], variables), None
    _, first = model(layers=1)
    np.testing.assert_allclose(apply(variables, X, depth=1), first(lower, X), atol=1e-6)
    np.testing.assert_array_equal(apply(variables, X, depth=2), apply(variables, X))


def test_batch_norm_against_numpy_and_its_running_statistics():
    module = BatchNorm()
    x = 3.0 * X + 1.0
    mask = jnp.arange(7)[None] < jnp.array([[7], [4]])
    variables = nn.unbox(module.init(jax.random.PRNGKey(0), x))
    y, changed = module.apply(variables, x, mask, True, mutable=[MEASURED])
    rows = np.asarray(x)[np.asarray(mask)]
    np.testing.assert_allclose(
        np.asarray(y)[np.asarray(mask)], (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5), atol=1e-5
    )
    moved = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, variables[MEASURED], changed[MEASURED])
    np.testing.assert_allclose(moved["mean"], 0.25 * rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.75 + 0.25 * rows.var(0), atol=1e-5)
    still = module.apply({**variables, MEASURED: moved}, x)
    np.testing.assert_allclose(
        still, (np.asarray(x) - np.asarray(moved["mean"])) / np.sqrt(np.asarray(moved["var"]) + 1e-5), atol=1e-5
    )


def test_batch_norm_leaves_statistics_of_every_layer():
    module = Conformer(dataclasses.replace(CONFIG, convolution_norm="batch"))
    variables, _ = model(convolution_norm="batch")
    _, changed = module.apply(variables, X, None, True, mutable=[MEASURED])
    statistics = changed[MEASURED]["layers"]["convolution"]["depthwise_norm"]
    assert statistics["mean"].shape == (2, 8) and not np.allclose(statistics["mean"][0], statistics["mean"][1])


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_gives_equal_gradients(remat):
    variables, _ = model()

    def gradient(policy):
        module = Conformer(dataclasses.replace(CONFIG, remat=policy))
        return jax.jit(jax.grad(lambda v: jnp.sum(jnp.square(module.apply(v, X)))))(variables)

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5), gradient(remat), gradient("none"))


@pytest.mark.parametrize("bad", [{"kernel": 4}, {"positions": "sideways"}, {"convolution_norm": "none"}])
def test_bad_configs_are_refused(bad):
    with pytest.raises(UserError):
        ConformerConfig(**bad)
