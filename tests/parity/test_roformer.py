"""Rotary attention against `RoFormerModel`'s."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import RoFormerConfig, RoFormerModel

from melody_jax.nn.attention import Attention, rotary
from tests.parity.reference import FORWARD, GRADIENT, random_params, relative

WIDTH, HEADS = 32, 4
MAPS = {"query": "self.query", "key": "self.key", "value": "self.value", "out": "output.dense"}


@pytest.fixture(scope="module")
def pair():
    """(our attention, params, theirs, the table of sinusoids of a whole model)."""
    config = RoFormerConfig(
        vocab_size=20, hidden_size=WIDTH, num_attention_heads=HEADS, num_hidden_layers=1, intermediate_size=16,
        max_position_embeddings=64, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0,
    )  # fmt: skip
    model = RoFormerModel(config).eval()
    ours = Attention(HEADS, WIDTH // HEADS, use_bias=True, rope=10_000.0, interleaved=True)
    shapes = {f"{name}/{leaf}": np.zeros((WIDTH, WIDTH) if leaf == "kernel" else WIDTH) for name in MAPS
              for leaf in ("kernel", "bias")}  # fmt: skip
    params = random_params(shapes)
    theirs = model.encoder.layer[0].attention
    for name, path in MAPS.items():
        linear = theirs.get_submodule(path)
        linear.weight.data = torch.tensor(np.asarray(params[name]["kernel"]).T.copy())
        linear.bias.data = torch.tensor(np.asarray(params[name]["bias"]))
    return ours, params, theirs, model.encoder.embed_positions


def states(rows, width, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width, WIDTH)).astype(np.float32)


def reference(theirs, table, x, mask):
    sinusoids = table(x.shape[:2])[None, None]
    additive = torch.where(torch.tensor(mask)[:, None, None], 0.0, torch.finfo(torch.float32).min)
    mixed = theirs.self(x, attention_mask=additive, sinusoidal_pos=sinusoids)[0]
    return theirs.output.dense(mixed)


@pytest.mark.parametrize("shape", [(1, 1), (2, 13), (3, 64)])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_attention(pair, shape, padded):
    ours, params, theirs, table = pair
    x = states(*shape)
    lengths = (
        np.linspace((shape[1] + 1) // 2, shape[1], shape[0]).astype(int) if padded else np.full(shape[0], shape[1])
    )
    mask = np.arange(shape[1])[None] < lengths[:, None]
    found, _ = ours.apply({"params": params}, jnp.asarray(x), mask=jnp.asarray(mask)[:, None, None])
    with torch.no_grad():
        wanted = reference(theirs, table, torch.tensor(x), mask)
    assert relative(np.asarray(found)[mask], wanted[torch.tensor(mask)]) <= FORWARD


def test_gradients(pair):
    ours, params, theirs, table = pair
    x, weight = states(2, 13), states(2, 13, seed=1)
    mask = np.ones((2, 13), bool)

    def loss(params, x):
        return jnp.sum(jnp.tanh(ours.apply({"params": params}, x)[0]) * jnp.asarray(weight))

    gradients, into = jax.grad(loss, argnums=(0, 1))(params, jnp.asarray(x))
    source = torch.tensor(x, requires_grad=True)
    theirs.zero_grad()
    (torch.tanh(reference(theirs, table, source, mask)) * torch.tensor(weight)).sum().backward()
    assert relative(into, source.grad) <= GRADIENT
    for name, path in MAPS.items():
        linear = theirs.get_submodule(path)
        assert relative(gradients[name]["kernel"], linear.weight.grad.T) <= GRADIENT, name
        if name != "key":  # a bias of the keys moves all scores of a query alike: its gradient is rounding
            assert relative(gradients[name]["bias"], linear.bias.grad) <= GRADIENT, name


def test_both_pairings_are_one_rotation():
    """(i, i + dim/2), as the DPD's coarse path has it, is (2i, 2i + 1) with the channels in another order."""
    x = np.random.default_rng(0).normal(size=(1, 9, 2, 8)).astype(np.float32)
    order = np.arange(8).reshape(2, 4).T.ravel()  # 0 4 1 5 2 6 3 7
    positions = jnp.arange(9)[None]
    halves = rotary(jnp.asarray(x), positions)
    pairs = rotary(jnp.asarray(x[..., order]), positions, interleaved=True)
    np.testing.assert_allclose(np.asarray(halves)[..., order], pairs, atol=1e-6)
