"""The two-dimensional convolution of the spectrogram discriminators against XLA's strided one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.autoencoder.discriminators import Conv2d


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel, bins, dilation", [((3, 9), 33, 1), ((3, 9), 64, 2), ((1, 2), 9, 1), ((4, 3), 20, 1)])
def test_values_and_gradients_are_those_of_a_strided_convolution(stride, kernel, bins, dilation):
    module = Conv2d(5, kernel, stride, dilation, "float32", "float32")
    x = jax.random.normal(jax.random.PRNGKey(0), (2, 7, bins, 3))
    params = nn.unbox(module.init(jax.random.PRNGKey(1), x)["params"])

    def reference(params, x):
        y = jax.lax.conv_general_dilated(
            x, params["kernel"], (1, stride), "SAME", rhs_dilation=(dilation, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return y + params["bias"][None, None, None]

    def ours(params, x):
        return module.apply({"params": params}, x)

    (y, y_reference) = ours(params, x), reference(params, x)
    assert y.shape == y_reference.shape == (2, 7, -(-bins // stride), 5)
    np.testing.assert_allclose(y, y_reference, atol=1e-5)
    weights = jax.random.normal(jax.random.PRNGKey(2), y.shape)
    gradients, expected = (
        jax.grad(lambda p, x, f=f: jnp.sum(jnp.sin(f(p, x)) * weights), argnums=(0, 1))(params, x)
        for f in (ours, reference)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradients, expected)
