"""The music tower against `ASTModel`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import ASTModel

from tests.parity.reference import FORWARD, Pair, check_gradients, relative

SETTINGS = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_mel_bins": 24,
    "max_length": 40, "patch_size": 8, "frequency_stride": 5, "time_stride": 6, "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
VARIANTS = {
    "overlapping": SETTINGS,
    "published grid": SETTINGS | {"num_mel_bins": 128, "max_length": 90, "patch_size": 16, "frequency_stride": 10,
                                  "time_stride": 10, "num_hidden_layers": 1},
    "tiled": SETTINGS | {"patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 33},
}  # fmt: skip


def spectrograms(pair, rows, seed=0):
    shape = (rows, pair.config.frames, pair.config.music.mels)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_pooled_state(variant, rows, tmp_path):
    pair = Pair("ast", VARIANTS[variant], ASTModel, tmp_path)
    x = spectrograms(pair, rows)
    found = pair.module.apply({"params": pair.params}, jnp.asarray(x))
    with torch.no_grad():
        assert relative(found, pair.torch(torch.tensor(x)).pooler_output) <= FORWARD


def test_gradients(tmp_path):
    pair = Pair("ast", SETTINGS, ASTModel, tmp_path)
    x, weight = spectrograms(pair, 2), np.random.default_rng(3).normal(size=(2, 32)).astype(np.float32)

    def loss(params):
        return jnp.sum(jnp.tanh(pair.module.apply({"params": params}, jnp.asarray(x))) * jnp.asarray(weight))

    value, gradients = jax.value_and_grad(loss)(pair.params)
    wanted = (torch.tanh(pair.torch(torch.tensor(x)).pooler_output) * torch.tensor(weight)).sum()
    wanted.backward()
    assert relative(value, wanted) <= FORWARD
    check_gradients(gradients, pair.torch_gradients())
