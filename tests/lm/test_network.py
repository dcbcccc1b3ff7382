"""The network: causality, padding, cache, sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.lm.config import LMConfig
from melody_jax.lm.network import SemanticLM, empty_cache

VOCABULARY = Vocabulary(mulan_tokens=2, mulan_codes=4, semantic_codes=6)
CONFIG = LMConfig(layers=3, width=16, heads=2, hidden=24)
TOKENS = jax.random.randint(jax.random.PRNGKey(5), (2, 7), 0, VOCABULARY.size)


def build(**changes):
    model = SemanticLM(LMConfig(**{**CONFIG.__dict__, **changes}), VOCABULARY)
    params = nn.unbox(jax.jit(model.init)(jax.random.PRNGKey(0), TOKENS))["params"]
    return model, params


@pytest.fixture(scope="module", params=[False, True], ids=["llama", "condition everywhere"])
def network(request):
    model, params = build(condition_everywhere=request.param)
    if request.param:
        params["condition"]["kernel"] = jax.random.normal(jax.random.key(1), (16, 16))
    return jax.jit(lambda tokens, mask: model.apply({"params": params}, tokens, mask)), model, params


def test_a_later_token_changes_no_earlier_logits(network):
    forward = network[0]
    mask = jnp.ones(TOKENS.shape, bool)
    before, after = forward(TOKENS, mask), forward(TOKENS.at[:, 4].add(1), mask)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (np.abs(before[:, 4:] - after[:, 4:]).max(axis=-1) > 1e-4).all()


@pytest.mark.parametrize("left, right", [(0, 3), (3, 0), (2, 1)])
def test_padding_changes_nothing(network, left, right):
    forward = network[0]
    plain = forward(TOKENS, jnp.ones(TOKENS.shape, bool))
    widths = ((0, 0), (left, right))
    padded = forward(jnp.pad(TOKENS, widths, constant_values=3), jnp.pad(jnp.ones(TOKENS.shape, bool), widths))
    np.testing.assert_allclose(padded[:, left : left + 7], plain, atol=1e-5)


@pytest.mark.parametrize("pieces", [(7,), (3, 1, 1, 1, 1), (1, 4, 2)])
@pytest.mark.parametrize("padding", [0, 2])
def test_cached_decoding_equals_the_full_forward(network, pieces, padding):
    """Also with left padding, and with a cache larger than the sequence."""
    forward, model, params = network
    widths = ((0, 0), (padding, 0))
    tokens, mask = jnp.pad(TOKENS, widths), jnp.pad(jnp.ones(TOKENS.shape, bool), widths)
    full = forward(tokens, mask)
    cache, start, found = empty_cache(model.config, 2, 12), 0, []
    slots = jnp.pad(mask, ((0, 0), (0, 12 - mask.shape[1])), constant_values=True)
    extend = jax.jit(lambda tokens, cache: model.apply({"params": params}, tokens, cache, slots, method="extend"))
    for size in (pieces[0] + padding, *pieces[1:]):
        logits, cache = extend(tokens[:, start : start + size], cache)
        found.append(logits)
        start += size
    np.testing.assert_allclose(jnp.concatenate(found, axis=1)[:, padding:], full[:, padding:], atol=1e-5)
    assert cache.length == tokens.shape[1]


def test_the_condition_reaches_every_semantic_position_and_none_before():
    """Without attention and feed-forward nothing but the map tells a position of another one."""
    model, params = build(condition_everywhere=True)
    params["layers"] = jax.tree.map(jnp.zeros_like, params["layers"])
    params["condition"]["kernel"] = jnp.eye(16)
    alone = np.asarray(model.apply({"params": params}, TOKENS))
    other = np.asarray(model.apply({"params": params}, TOKENS.at[:, 1].set((TOKENS[:, 1] + 1) % VOCABULARY.size)))
    changed = np.abs(other - alone).max(axis=-1) > 1e-6
    assert changed[:, 1:].all() and not changed[:, 0].any()  # position 1 is the changed token itself
    later = np.asarray(model.apply({"params": params}, TOKENS.at[:, 2].set((TOKENS[:, 2] + 1) % VOCABULARY.size)))
    assert not (np.abs(later - alone).max(axis=-1) > 1e-6)[:, :2].any()


def test_tied_head_is_the_embedding():
    _, untied = build()
    model, tied = build(tie_embeddings=True)
    assert set(untied) - set(tied) == {"head"}
    logits = model.apply({"params": tied}, TOKENS)
    assert logits.shape == (2, 7, VOCABULARY.size)


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_no_gradient(network, remat):
    _, plain, params = network
    gradients = []
    for model in (plain, plain.clone(config=dataclasses.replace(plain.config, remat=remat))):
        loss = jax.jit(jax.grad(lambda p, model=model: jnp.sum(jnp.square(model.apply({"params": p}, TOKENS)))))
        gradients.append(loss(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *gradients)


def test_dropout_only_in_training(network):
    _, plain, params = network
    model = plain.clone(config=dataclasses.replace(plain.config, dropout=0.5))
    rngs = {"dropout": jax.random.PRNGKey(1)}
    plain = network[0](TOKENS, jnp.ones(TOKENS.shape, bool))
    np.testing.assert_allclose(model.apply({"params": params}, TOKENS), plain, atol=1e-6)
    assert np.abs(model.apply({"params": params}, TOKENS, train=True, rngs=rngs) - plain).max() > 1e-3


def test_bfloat16_compute_gives_float32_logits_near_the_float32_ones(network):
    forward, plain, params = network
    model = plain.clone(config=dataclasses.replace(plain.config, dtype="bfloat16"))
    logits = model.apply({"params": params}, TOKENS)
    exact = forward(TOKENS, jnp.ones(TOKENS.shape, bool))
    assert logits.dtype == jnp.float32
    assert np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


def test_published_size():
    """24 layers, width 1024: 429.5 M parameters within 2 %; every parameter has logical axes."""
    model = SemanticLM(LMConfig(), Vocabulary.of(Geometry()))
    boxed = jax.eval_shape(model.init, jax.random.PRNGKey(0), jax.ShapeDtypeStruct((1, 4), jnp.int32))["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(boxed))
    assert abs(count / 429.5e6 - 1) < 0.02
    boxes = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    assert all(isinstance(box, nn.LogicallyPartitioned) and None not in box.names for box in boxes)


def test_bad_config_is_refused():
    with pytest.raises(UserError, match="heads"):
        LMConfig(width=100, heads=16)
    with pytest.raises(UserError, match="remat"):
        LMConfig(remat="some")
    with pytest.raises(UserError, match="window of 1"):
        LMConfig(window=1)
