"""Residual vector quantisation against `EncodecModel`'s quantiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import EncodecConfig
from transformers.models.encodec.modeling_encodec import EncodecResidualVectorQuantizer

from melody_jax.codes import rvq
from tests.parity.reference import FORWARD, GRADIENT, relative


def pair(levels, entries, width, seed=0):
    """(codebooks [Q, C, E], the quantiser with them)."""
    config = EncodecConfig(codebook_size=entries, codebook_dim=width, hidden_size=width)
    quantizer = EncodecResidualVectorQuantizer(config)
    del quantizer.layers[levels:]
    quantizer.num_quantizers = levels
    random = np.random.default_rng(seed)
    books = (random.normal(size=(levels, entries, width)) * 0.6 ** np.arange(levels)[:, None, None]).astype(np.float32)
    for layer, book in zip(quantizer.layers, books, strict=True):
        layer.codebook.embed = torch.nn.Buffer(torch.tensor(book))
    return books, quantizer


@pytest.mark.parametrize(("levels", "entries", "width"), [(1, 16, 4), (4, 32, 8), (12, 1024, 128)])
@pytest.mark.parametrize("shape", [(1, 1), (2, 37)])
def test_codes_and_sums(levels, entries, width, shape):
    books, quantizer = pair(levels, entries, width)
    x = np.random.default_rng(1).normal(size=(*shape, width)).astype(np.float32)
    codes = rvq.encode(jnp.asarray(books), jnp.asarray(x))
    with torch.no_grad():
        wanted = quantizer.encode(torch.tensor(x).transpose(1, 2))  # [Q, B, N]
        decoded = quantizer.decode(wanted).transpose(1, 2)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(codes), -1, 0), wanted.numpy())
    assert relative(rvq.decode(jnp.asarray(books), codes), decoded) <= FORWARD


def test_gradients_of_the_codebooks():
    books, quantizer = pair(4, 32, 8)
    x = np.random.default_rng(1).normal(size=(2, 37, 8)).astype(np.float32)
    codes = rvq.encode(jnp.asarray(books), jnp.asarray(x))

    def loss(books):
        return jnp.sum(jnp.square(rvq.decode(books, codes) - jnp.asarray(x)))

    found = jax.grad(loss)(jnp.asarray(books))
    for layer in quantizer.layers:
        layer.codebook.embed.requires_grad_(True)
    decoded = quantizer.decode(torch.tensor(np.moveaxis(np.asarray(codes), -1, 0)).long()).transpose(1, 2)
    (decoded - torch.tensor(x)).square().sum().backward()
    assert relative(found, torch.stack([layer.codebook.embed.grad for layer in quantizer.layers])) <= GRADIENT
