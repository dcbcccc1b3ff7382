"""The SRU against the `sru` package of its authors, whose peephole (`weight_c`, v in the paper) is set to zero: the form
that runs in parallel has none."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from melody_jax.nn.recurrent import SRU
from tests.parity.reference import FORWARD, GRADIENT, random_params, relative

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of torch.jit, which the package is written in
    import sru


def pair(inputs, features, bidirectional, layers, scan):
    """(our module, params, theirs)."""
    ours = SRU(features, bidirectional, layers, scan)
    x = jnp.zeros((1, 2, inputs))
    shapes = {}
    for index in range(layers):
        tree = jax.eval_shape(ours.init, jax.random.PRNGKey(0), x)["params"][f"layer_{index}"]
        for name, leaves in tree.items():
            for leaf, box in leaves.items():
                shapes[f"layer_{index}/{name}/{leaf}"] = box.value
    params = random_params(shapes)
    theirs = sru.SRU(inputs, features, layers, bidirectional=bidirectional, rescale=False, highway_bias=0.0)
    for index, cell in enumerate(theirs.rnn_lst):
        layer = params[f"layer_{index}"]
        names = ["candidate", "forget", "output", *(["highway"] if "highway" in layer else [])]
        kernels = np.stack([np.asarray(layer[name]["kernel"]) for name in names], axis=-1)  # [in, directions * d, k]
        cell.weight.data = torch.tensor(kernels.reshape(kernels.shape[0], -1))
        biases = np.stack([np.asarray(layer[name]["bias"]) for name in ("forget", "output")])
        cell.bias.data = torch.tensor(biases.reshape(-1))
        cell.weight_c.data.zero_()
    return ours, params, theirs.eval()


VARIANTS = {
    "highway of the input": (12, 12, False, 1),
    "highway by a map": (7, 12, False, 2),
    "both directions": (24, 12, True, 2),
    "both directions, by a map": (10, 6, True, 1),
}


@pytest.mark.parametrize("scan", ["associative", "sequential"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 37)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_states(variant, shape, scan):
    ours, params, theirs = pair(*VARIANTS[variant], scan)
    x = np.random.default_rng(1).normal(size=(*shape, VARIANTS[variant][0])).astype(np.float32)
    found = ours.apply({"params": params}, jnp.asarray(x))
    with torch.no_grad():
        wanted = theirs(torch.tensor(x).transpose(0, 1))[0].transpose(0, 1)  # [time, batch, width]
    assert relative(found, wanted) <= FORWARD


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients(variant):
    ours, params, theirs = pair(*VARIANTS[variant], "associative")
    x = np.random.default_rng(1).normal(size=(2, 19, VARIANTS[variant][0])).astype(np.float32)

    def loss(params, x):
        return jnp.sum(jnp.sin(ours.apply({"params": params}, x)))

    gradients, into = jax.grad(loss, argnums=(0, 1))(params, jnp.asarray(x))
    source = torch.tensor(x, requires_grad=True)
    torch.sin(theirs(source.transpose(0, 1))[0]).sum().backward()
    assert relative(into, source.grad) <= GRADIENT
    for index, cell in enumerate(theirs.rnn_lst):
        layer = gradients[f"layer_{index}"]
        names = ["candidate", "forget", "output", *(["highway"] if "highway" in layer else [])]
        kernels = np.stack([np.asarray(layer[name]["kernel"]) for name in names], axis=-1)
        assert relative(kernels.reshape(cell.weight.shape), cell.weight.grad) <= GRADIENT
        biases = np.stack([np.asarray(layer[name]["bias"]) for name in ("forget", "output")])
        assert relative(biases.reshape(-1), cell.bias.grad) <= GRADIENT
