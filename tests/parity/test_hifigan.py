"""The HiFi-GAN decoder against `SpeechT5HifiGan` (Kong et al.'s generator)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import SpeechT5HifiGan

from tests.parity.reference import FORWARD, Pair, check_gradients, relative

SETTINGS = {
    "model_in_dim": 6, "upsample_initial_channel": 32, "upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4],
    "resblock_kernel_sizes": [3, 7], "resblock_dilation_sizes": [[1, 3], [1, 3]], "normalize_before": False,
}  # fmt: skip
VARIANTS = {
    "small": SETTINGS,
    "published kernels": SETTINGS
    | {"upsample_rates": [4, 4, 3, 2], "upsample_kernel_sizes": [8, 8, 7, 4], "resblock_kernel_sizes": [3, 7, 11],
       "resblock_dilation_sizes": [[1, 3, 5]] * 3, "model_in_dim": 16},
    "steep": SETTINGS | {"leaky_relu_slope": 0.3, "resblock_kernel_sizes": [5], "resblock_dilation_sizes": [[2]]},
}  # fmt: skip


def latents(pair, rows, frames, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, frames, pair.config.channels)).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1), (2, 13)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_waveform(variant, shape, tmp_path):
    pair = Pair("hifigan", VARIANTS[variant], SpeechT5HifiGan, tmp_path)
    x = latents(pair, *shape)
    found = pair.module.apply({"params": pair.params}, jnp.asarray(x))
    with torch.no_grad():
        wanted = pair.torch(torch.tensor(x)).reshape(found.shape)
    assert relative(found, wanted) <= FORWARD


def test_gradients(tmp_path):
    pair = Pair("hifigan", SETTINGS, SpeechT5HifiGan, tmp_path)
    x = latents(pair, 2, 9, seed=1)
    weight = np.random.default_rng(2).normal(size=(2, 72)).astype(np.float32)

    def loss(params):
        return jnp.sum(pair.module.apply({"params": params}, jnp.asarray(x)) * jnp.asarray(weight))

    value, gradients = jax.value_and_grad(loss)(pair.params)
    wanted = (pair.torch(torch.tensor(x)).reshape(2, 72) * torch.tensor(weight)).sum()
    wanted.backward()
    assert relative(value, wanted) <= FORWARD
    check_gradients(gradients, pair.torch_gradients())
