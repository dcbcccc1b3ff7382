"""The semantic encoder against `Wav2Vec2ConformerModel`, its pre-training against `...ForPreTraining`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import Wav2Vec2ConformerForPreTraining, Wav2Vec2ConformerModel

from melody_jax.nn.measured import MEASURED, variables
from melody_jax.semantic import masking
from melody_jax.semantic.config import PretrainConfig
from melody_jax.semantic.stem import pad_for
from tests.parity.reference import FORWARD, Pair, check_gradients, relative

SETTINGS = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "conv_dim": [24, 24, 24], "conv_kernel": [10, 5, 4], "conv_stride": [5, 4, 2], "conv_bias": True,
    "feat_extract_norm": "layer", "position_embeddings_type": "relative", "conv_depthwise_kernel_size": 7,
    "num_codevectors_per_group": 12, "num_codevector_groups": 2, "codevector_dim": 16, "proj_codevector_dim": 16,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.65, "mask_time_length": 4,
    "hidden_dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0,
    "feat_quantizer_dropout": 0.0, "final_dropout": 0.0, "layerdrop": 0.0, "conformer_conv_dropout": 0.0,
    "num_negatives": 9,
}  # fmt: skip
VARIANTS = {
    "relative": SETTINGS,
    "rotary": SETTINGS | {"position_embeddings_type": "rotary", "hidden_act": "swish"},
    "no positions, group norm": SETTINGS
    | {"position_embeddings_type": None, "feat_extract_norm": "group", "conv_bias": False, "hidden_act": "relu"},
}


@pytest.fixture(params=VARIANTS, scope="module")
def pair(request, tmp_path_factory):
    return Pair(
        "wav2vec2-conformer", VARIANTS[request.param], Wav2Vec2ConformerForPreTraining, tmp_path_factory.mktemp("w2v")
    )


def audio(pair, rows, frames, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, frames * pair.config.wave.stride)).astype(np.float32)


def padded(pair, x):
    """What our encoder gives its stem: theirs pads nothing."""
    return torch.tensor(np.asarray(pad_for(jnp.asarray(x), pair.config.wave, pair.module.geometry)))


@pytest.mark.parametrize("shape", [(1, 5), (3, 23)])
def test_states(pair, shape):
    x = audio(pair, *shape)
    weights = variables(pair.params)
    with torch.no_grad():
        wanted = pair.torch.wav2vec2_conformer(padded(pair, x), output_hidden_states=True)
    assert relative(pair.module.apply(weights, jnp.asarray(x)), wanted.last_hidden_state) <= FORWARD
    for layer in (1, 2):
        found = pair.module.apply(weights, jnp.asarray(x), layer, method="hidden")
        assert relative(found, wanted.hidden_states[layer]) <= FORWARD


def test_states_with_padding(pair):
    if pair.config.wave.norm == "group":
        pytest.skip("a group norm over time sees the padding, in theirs as in ours; there is no mask to compare")
    x, wave = audio(pair, 3, 19), pair.config.wave
    frames = np.array([19, 11, 6])
    mask = np.arange(19)[None] < frames[:, None]
    samples = frames * wave.stride + wave.receptive_field - wave.stride  # so many make just these frames
    waveform = padded(pair, x)
    attended = torch.arange(waveform.shape[1])[None] < torch.tensor(samples)[:, None]
    found = pair.module.apply(variables(pair.params), jnp.asarray(x), jnp.asarray(mask))
    with torch.no_grad():
        wanted = pair.torch.wav2vec2_conformer(waveform, attention_mask=attended.long()).last_hidden_state
    assert relative(np.asarray(found)[mask], wanted[torch.tensor(mask)]) <= FORWARD


def test_a_model_without_quantizer(tmp_path):
    pair = Pair("wav2vec2-conformer", SETTINGS | {"num_hidden_layers": 1}, Wav2Vec2ConformerModel, tmp_path)
    x = audio(pair, 2, 8)
    with torch.no_grad():
        wanted = pair.torch(padded(pair, x)).last_hidden_state
    assert relative(pair.module.apply(variables(pair.params), jnp.asarray(x)), wanted) <= FORWARD


@pytest.mark.parametrize("variant", VARIANTS)
def test_pretraining_loss_and_gradients(variant, tmp_path, monkeypatch):
    """One training step's loss under the same mask, distractors, Gumbel noise and temperature; batch norm in training."""
    pair = Pair("wav2vec2-conformer", VARIANTS[variant], Wav2Vec2ConformerForPreTraining, tmp_path)
    pretrain = PretrainConfig(mask_length=4, negatives=9)
    config = dataclasses.replace(
        pair.config, pretrain=pretrain, conformer=dataclasses.replace(pair.config.conformer, dropout=0.0)
    )
    module = pair.module.clone(config=config)
    x, key, tau = audio(pair, 3, 24), jax.random.PRNGKey(5), 1.7

    def loss(params):
        output, _ = module.apply(
            variables(params), jnp.asarray(x), key, jnp.float32(tau), True, method="pretrain", mutable=[MEASURED]
        )
        return output.loss, output

    (_, ours), gradients = jax.value_and_grad(loss, has_aux=True)(pair.params)

    mask_key, negatives_key, _, gumbel_key = jax.random.split(key, 4)
    assert bool(jnp.all(ours.mask == masking.span_mask(mask_key, 3, 24, 0.65, 4)))
    negatives = np.asarray(masking.sample_negatives(negatives_key, ours.mask, 9)) + 24 * np.arange(3)[:, None, None]
    shape = (3, 24, config.quantizer.groups, config.quantizer.entries)
    noise = torch.tensor(np.asarray(jax.random.gumbel(gumbel_key, shape, jnp.float32))).reshape(-1, shape[-1])

    def gumbel_softmax(logits, tau, hard):
        soft = torch.softmax((logits + noise) / tau, -1)
        one_hot = torch.nn.functional.one_hot((logits + noise).argmax(-1), logits.shape[-1]).float()
        return one_hot - soft.detach() + soft

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", gumbel_softmax)
    pair.torch.train()
    pair.torch.set_gumbel_temperature(tau)
    theirs = pair.torch(
        padded(pair, x), mask_time_indices=torch.tensor(np.asarray(ours.mask)),
        sampled_negative_indices=torch.tensor(negatives),
    )  # fmt: skip
    count = int(ours.mask.sum())  # they sum over the masked frames, we take the mean
    assert relative(ours.contrastive, theirs.contrastive_loss / count) <= FORWARD
    assert relative(ours.diversity, theirs.diversity_loss / count) <= FORWARD
    assert relative(ours.perplexity, theirs.codevector_perplexity) <= FORWARD
    assert relative(ours.loss, theirs.loss / count) <= FORWARD
    (theirs.loss / count).backward()
    # running statistics have no gradient; PyTorch keeps them as buffers, which save_pretrained writes as they are
    check_gradients(gradients, pair.torch_gradients(), leave_out=("depthwise_norm/mean", "depthwise_norm/var"))
