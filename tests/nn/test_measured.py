"""Values that are measured: where they lie, what they start as, and that nothing learns them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.errors import ScopeVariableNotFoundError

from melody_jax.nn.measured import MEASURED, joined, measured, variables


class Centred(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x - measured(self, "mean", nn.initializers.zeros, (3,), ("embed",))[None]
        return x * self.param("gain", nn.initializers.ones, (3,))[None]


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Centred(name="inner")(x)


X = jnp.arange(6.0).reshape(2, 3)
MEAN = jnp.array([1.0, 2.0, 3.0])


def test_they_lie_beside_the_parameters_with_their_axes():
    made = Twice().init(jax.random.PRNGKey(0), X)
    assert set(made) == {"params", MEASURED} and set(made["params"]["inner"]) == {"gain"}
    assert made[MEASURED]["inner"]["mean"].names == ("embed",)


def test_a_part_holds_both_in_one_tree():
    made = nn.unbox(Twice().init(jax.random.PRNGKey(0), X))
    tree = joined(made["params"], {"inner": {"mean": MEAN}})
    assert set(tree["inner"]) == {"gain", "mean"} and set(made["params"]["inner"]) == {"gain"}
    np.testing.assert_array_equal(Twice().apply(variables(tree), X), X - MEAN[None])


def test_without_the_collection_they_are_what_they_start_as_and_else_must_be_there():
    params = nn.unbox(Twice().init(jax.random.PRNGKey(0), X))["params"]
    np.testing.assert_array_equal(Twice().apply({"params": params}, X), X)
    with pytest.raises(ScopeVariableNotFoundError, match="mean"):
        Twice().apply(variables(params), X)


def test_no_gradient_reaches_them():
    tree = joined(nn.unbox(Twice().init(jax.random.PRNGKey(0), X))["params"], {"inner": {"mean": MEAN}})
    gradient = jax.grad(lambda tree: jnp.sum(Twice().apply(variables(tree), X)))(tree)["inner"]
    assert not np.any(gradient["mean"]) and np.all(gradient["gain"] != 0)
