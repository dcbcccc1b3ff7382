"""The text tower against `BertModel`, with random numbers and with those of all-MiniLM-L6-v2."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import BertModel

from melody_jax.mulan import minilm
from melody_jax.mulan.text_tower import TextTower
from melody_jax.mulan.tokenizer import TextTokenizer
from tests.mulan.minilm_tower import TOWER
from tests.parity.reference import FORWARD, Pair, check_gradients, relative

SETTINGS = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 40, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
VARIANTS = {
    "narrow": SETTINGS,
    "wide": SETTINGS | {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1},
}


def tokens(rows, width, vocabulary=60, seed=0):
    """Padded with 0, every row of another length."""
    random = np.random.default_rng(seed)
    ids = random.integers(1, vocabulary, (rows, width))
    lengths = np.linspace(max(1, width // 3), width, rows).astype(int)[:, None]
    return np.where(np.arange(width)[None] < lengths, ids, 0)


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (4, 40)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_states(variant, shape, tmp_path):
    pair = Pair("bert", VARIANTS[variant], BertModel, tmp_path)
    ids = tokens(*shape)
    found = pair.module.apply({"params": pair.params}, jnp.asarray(ids, jnp.int32), method="states")
    real = ids != 0
    with torch.no_grad():
        wanted = pair.torch(torch.tensor(ids), attention_mask=torch.tensor(real).long()).last_hidden_state
    assert relative(np.asarray(found)[real], wanted[torch.tensor(real)]) <= FORWARD


def test_gradients(tmp_path):
    pair = Pair("bert", SETTINGS, BertModel, tmp_path)
    ids = tokens(3, 11, seed=1)
    real = ids != 0
    weight = np.random.default_rng(2).normal(size=(3, 11, 32)).astype(np.float32) * real[..., None]

    def loss(params):
        states = pair.module.apply({"params": params}, jnp.asarray(ids, jnp.int32), method="states")
        return jnp.sum(jnp.tanh(states) * jnp.asarray(weight))

    value, gradients = jax.value_and_grad(loss)(pair.params)
    states = pair.torch(torch.tensor(ids), attention_mask=torch.tensor(real).long()).last_hidden_state
    wanted = (torch.tanh(states) * torch.tensor(weight)).sum()
    wanted.backward()
    assert relative(value, wanted) <= FORWARD
    check_gradients(gradients, pair.torch_gradients())


def test_all_minilm(tmp_path):
    """The package's weights through our loader and through theirs, on real sentences; mean pooling as in its card."""
    folder = minilm.directory()
    theirs = BertModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    settings = json.loads((folder / "config.json").read_text())
    assert settings["hidden_size"] == TOWER.width
    sentences = ["a slow waltz for solo violin in D minor", "drums", "an upbeat march, played by a brass band; 120 bpm"]
    ids = TextTokenizer().encode(sentences, 24)
    params = jax.tree.map(jnp.asarray, minilm.load(minilm.reference(), TOWER))
    tower = TextTower(TOWER)
    states = tower.apply({"params": params}, jnp.asarray(ids), method="states")
    pooled = tower.apply({"params": params}, jnp.asarray(ids))
    mask = torch.tensor(ids != 0)
    with torch.no_grad():
        wanted = theirs(torch.tensor(ids).long(), attention_mask=mask.long()).last_hidden_state
    assert relative(np.asarray(states)[ids != 0], wanted[mask]) <= FORWARD
    weight = mask[..., None].float()
    assert relative(pooled, (wanted * weight).sum(1) / weight.sum(1)) <= FORWARD
