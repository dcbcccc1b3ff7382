"""The language model against `LlamaForCausalLM`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from melody_jax.lm.network import empty_cache
from tests.parity.reference import FORWARD, Pair, check_gradients, relative

SETTINGS = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
}  # fmt: skip
VARIANTS = {
    "untied": SETTINGS,
    "tied": SETTINGS | {"tie_word_embeddings": True, "num_hidden_layers": 1},
    "wide": SETTINGS | {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 97},
}


@pytest.fixture(params=VARIANTS, scope="module")
def pair(request, tmp_path_factory):
    return Pair("llama", VARIANTS[request.param], LlamaForCausalLM, tmp_path_factory.mktemp("llama"))


def ids(pair, rows, width, seed=0):
    return np.random.default_rng(seed).integers(0, pair.config.vocabulary, (rows, width))


def padding(rows, width, side):
    """True = a real token; every row has another length."""
    lengths = np.linspace(width // 2, width, rows).astype(int)[:, None]
    slots = np.arange(width)[None]
    return slots < lengths if side == "right" else slots >= width - lengths


def reference(pair, tokens, mask):
    positions = torch.tensor(np.maximum(np.cumsum(mask, 1) - 1, 0))
    return pair.torch(torch.tensor(tokens), attention_mask=torch.tensor(mask).long(), position_ids=positions).logits


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 33)])
def test_logits(pair, shape):
    tokens = ids(pair, *shape)
    found = pair.module.apply({"params": pair.params}, jnp.asarray(tokens, jnp.int32))
    with torch.no_grad():
        assert relative(found, pair.torch(torch.tensor(tokens)).logits) <= FORWARD


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_with_padding(pair, side):
    tokens, mask = ids(pair, 4, 21), padding(4, 21, side)
    found = pair.module.apply({"params": pair.params}, jnp.asarray(tokens, jnp.int32), jnp.asarray(mask))
    with torch.no_grad():
        wanted = reference(pair, tokens, mask)
    assert relative(np.asarray(found)[mask], wanted[torch.tensor(mask)]) <= FORWARD


@pytest.mark.parametrize("side", ["none", "left"])
def test_cached_decoding(pair, side):
    """A prompt at once, then token by token, in both caches."""
    tokens = ids(pair, 3, 14)
    mask = np.ones_like(tokens, bool) if side == "none" else padding(3, 14, side)
    slots = jnp.asarray(np.concatenate([mask, np.ones((3, 2), bool)], axis=1))  # the cache has room left
    cache, past = empty_cache(pair.config.lm, 3, 16), None
    start = 0
    for width in (6, 1, 1, 3, 1, 2):
        piece = slice(start, start + width)
        found, cache = pair.module.apply(
            {"params": pair.params}, jnp.asarray(tokens[:, piece], jnp.int32), cache, slots, method="extend"
        )
        seen = mask[:, : start + width]
        positions = np.maximum(np.cumsum(seen, 1) - 1, 0)[:, piece]
        with torch.no_grad():
            wanted = pair.torch(
                torch.tensor(tokens[:, piece]), attention_mask=torch.tensor(seen).long(),
                position_ids=torch.tensor(positions), past_key_values=past, use_cache=True,
            )  # fmt: skip
        past = wanted.past_key_values
        real = mask[:, piece]
        if real.any():
            assert relative(np.asarray(found)[real], wanted.logits[torch.tensor(real)]) <= FORWARD
        start += width
    assert start == 14


def test_gradients(tmp_path):
    pair = Pair("llama", SETTINGS, LlamaForCausalLM, tmp_path)
    tokens, mask = ids(pair, 3, 17, seed=1), padding(3, 17, "right")

    def loss(params):
        logits = pair.module.apply({"params": params}, jnp.asarray(tokens, jnp.int32), jnp.asarray(mask))
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(tokens)[..., None], axis=-1)[..., 0]
        return -jnp.sum(chosen * jnp.asarray(mask, jnp.float32))

    value, gradients = jax.value_and_grad(loss)(pair.params)
    logits = torch.log_softmax(reference(pair, tokens, mask), -1)
    chosen = logits.gather(-1, torch.tensor(tokens)[..., None])[..., 0]
    wanted = -(chosen * torch.tensor(mask)).sum()
    wanted.backward()
    assert relative(value, wanted) <= FORWARD
    check_gradients(gradients, pair.torch_gradients())
