"""Beats in the language model: what their features are, where they reach, windows that agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.codes import controls
from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.errors import UserError
from melody_jax.lm import beats
from melody_jax.lm.config import LMConfig
from melody_jax.lm.loss import clip_losses, sequence_losses
from melody_jax.lm.network import SemanticLM, empty_cache

VOCABULARY = Vocabulary(2, 4, 6, semantic_levels=2, controls=controls.SIZES)
CONFIG = LMConfig(layers=2, width=16, heads=2, hidden=24, controls=True, beats=True)
MODEL = SemanticLM(CONFIG, VOCABULARY)
MULAN = jnp.array([[1, 3]])
WIDTH = 2 * (1 + 2 * beats.HARMONICS)
CODES = jnp.asarray(controls.encode(controls.Controls(150.0, metre="2/4", downbeat=0.0))[None])  # 10 moments a beat
SEMANTIC = jax.random.randint(jax.random.key(0), (1, 40), 0, 12)
TOKENS = VOCABULARY.sequence(MULAN, SEMANTIC, controls=CODES)


def forward(params, *inputs) -> jax.Array:
    return MODEL.apply({"params": params}, *inputs)  # pyright: ignore[reportReturnType]


@pytest.fixture(scope="module")
def params():
    params = nn.unbox(MODEL.init(jax.random.key(1), TOKENS))["params"]
    assert not np.any(params["beats"]["kernel"])
    params["beats"]["kernel"] = jax.random.normal(jax.random.key(2), params["beats"]["kernel"].shape)
    return params


def test_features_turn_with_the_beat_and_with_the_bar():
    condition = VOCABULARY.condition(MULAN, controls=CODES)
    found = np.asarray(beats.phases(VOCABULARY, condition, jnp.arange(40)[None]))[0]
    assert found.shape == (40, WIDTH)
    beat, bar = np.split(found, 2, axis=1)
    np.testing.assert_allclose(beat[:30], beat[10:], atol=1e-4)
    np.testing.assert_allclose(bar[:20], bar[20:], atol=1e-4)
    np.testing.assert_allclose(beat[:, 1], np.cos(2 * np.pi * np.arange(40) / 10), atol=1e-4)
    np.testing.assert_allclose(bar[:, 1 + beats.HARMONICS], np.sin(2 * np.pi * np.arange(40) / 20), atol=1e-4)
    unknown = VOCABULARY.condition(MULAN, controls=CODES.at[:, controls.SLOTS.index("metre")].set(0))
    half = np.asarray(beats.phases(VOCABULARY, unknown, jnp.arange(40)[None]))[0]
    np.testing.assert_allclose(half[:, : WIDTH // 2], beat, atol=1e-6)
    assert not half[:, WIDTH // 2 :].any()
    assert not beats.phases(VOCABULARY, VOCABULARY.condition(MULAN), jnp.arange(40)[None]).any()


def test_both_levels_of_a_moment_are_predicted_from_that_moments_beat(params):
    """Without layers nothing but the map tells moments of the same ids apart; the prefix has no moment."""
    still = params | {"layers": jax.tree.map(jnp.zeros_like, params["layers"])}
    same = TOKENS.at[:, VOCABULARY.prefix :].set(TOKENS[0, VOCABULARY.prefix])
    moved = VOCABULARY.later(same, 5)
    logits, other = (np.asarray(forward(still, ids))[0] for ids in (same, moved))
    prefix = VOCABULARY.prefix
    pairs = logits[prefix : prefix + 38].reshape(19, 2, -1)  # predicted from a first level, from a second one
    np.testing.assert_allclose(pairs[:, 0][1:], pairs[:, 1][:-1], atol=1e-5)
    np.testing.assert_allclose(logits[prefix + 2 * 5 : prefix + 34], other[prefix : prefix + 24], atol=1e-5)
    assert np.abs(logits[prefix:] - other[prefix:]).max() > 0.01
    np.testing.assert_array_equal(
        np.delete(logits[: prefix - 1], 1 + 2 + 4, 0), np.delete(other[: prefix - 1], 1 + 2 + 4, 0)
    )


@pytest.mark.parametrize("padding", [0, 3])
def test_decoding_with_a_cache_is_the_full_forward(params, padding):
    full = forward(params, TOKENS)
    ids = jnp.pad(TOKENS, ((0, 0), (padding, 0)))
    mask = jnp.arange(ids.shape[1])[None] >= padding
    np.testing.assert_allclose(forward(params, ids, mask)[:, padding:], full, atol=1e-4)
    cache, found, begin = empty_cache(CONFIG, 1, ids.shape[1]), [], 0
    extend = jax.jit(lambda ids, cache: MODEL.apply({"params": params}, ids, cache, mask, method="extend"))
    for end in (VOCABULARY.prefix + padding, *range(VOCABULARY.prefix + padding + 1, ids.shape[1] + 1)):
        logits, cache = extend(ids[:, begin:end], cache)
        found.append(logits)
        begin = end
    np.testing.assert_allclose(jnp.concatenate(found, axis=1)[:, padding:], full, atol=1e-4)


def test_windows_of_a_clip_keep_its_beat(params):
    """Each window is scored as a sequence whose phase is that of its first moment."""
    window = clip_losses(MODEL, params, MULAN, SEMANTIC, 10, 2, controls=CODES)
    slot = controls.SLOTS.index("phase")
    assert controls.PHASE_STEPS == 24
    parts = [
        sequence_losses(
            MODEL, params, MULAN, SEMANTIC[:, 20 * n : 20 * n + 20], controls=CODES.at[:, slot].set(1 + 24 * n)
        )
        for n in (0, 1)
    ]
    np.testing.assert_allclose(window[0], np.mean(parts), rtol=1e-5)


def test_beats_without_controls_are_refused():
    with pytest.raises(UserError, match="set controls = True"):
        LMConfig(beats=True)
