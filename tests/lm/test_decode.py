"""Decoding: truncation against NumPy, guidance, legal ids, cached against full."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.errors import UserError
from melody_jax.lm.config import LMConfig
from melody_jax.lm.decode import Sampling, draw, generate, guided, truncate
from melody_jax.lm.network import SemanticLM, empty_cache

VOCABULARY = Vocabulary(mulan_tokens=2, mulan_codes=4, semantic_codes=6, semantic_levels=2, controls=(3,))
CONFIG = LMConfig(layers=2, width=16, heads=2, hidden=24)
MODEL = SemanticLM(CONFIG, VOCABULARY)


@pytest.fixture(scope="module")
def params():
    params = jax.jit(MODEL.init)(jax.random.PRNGKey(0), jnp.zeros((1, 4), jnp.int32))["params"]
    return jax.tree.map(lambda p: 5.0 * p, nn.unbox(params))  # larger: so that the tokens matter


def truncate_by_loop(logits, top_k, top_p):
    """Row by row from the definitions: keep k, renormalise, keep the shortest run of mass >= p."""
    out = np.full_like(logits, -np.inf)
    for row, values in enumerate(logits):
        order = list(np.argsort(-values))
        order = order[:top_k] if top_k else order
        mass = np.exp(values[order] - values[order].max())
        mass /= mass.sum()
        total = 0.0
        for token, share in zip(order, mass, strict=True):
            out[row, token] = values[token]
            total += share
            if total >= top_p:
                break
    return out


@pytest.mark.parametrize(
    "top_k, top_p", [(0, 1.0), (1, 1.0), (3, 1.0), (0, 0.5), (0, 0.9), (4, 0.7), (99, 1.0), (0, 0.01)]
)
def test_truncation_equals_the_definition(top_k, top_p):
    logits = np.random.default_rng(0).normal(scale=2.0, size=(5, 9)).astype(np.float32)
    np.testing.assert_array_equal(
        np.asarray(truncate(jnp.asarray(logits), top_k, top_p)), truncate_by_loop(logits, top_k, top_p)
    )


def test_truncation_respects_forbidden_tokens():
    logits = jnp.array([[1.0, -jnp.inf, 0.5, -jnp.inf]])
    for result in (truncate(logits, 3, 1.0), truncate(logits, 0, 0.99), truncate(logits, 3, 0.99)):
        np.testing.assert_array_equal(np.isfinite(result), [[True, False, True, False]])


def test_drawn_frequencies_are_the_tempered_probabilities():
    logits = jnp.array([0.0, 1.0, 2.0, -jnp.inf])
    keys = jax.random.split(jax.random.PRNGKey(3), 4000)
    drawn = np.asarray(draw(keys, jnp.tile(logits[None], (4000, 1)), Sampling(temperature=2.0)))
    expected = np.exp(np.array([0.0, 0.5, 1.0, -np.inf]))
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4000, expected / expected.sum(), atol=0.03)


def test_temperature_zero_takes_the_most_likely():
    logits = jnp.array([[0.0, 3.0, 2.0], [5.0, 3.0, 2.0]])
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    np.testing.assert_array_equal(draw(keys, logits, Sampling(temperature=0.0)), [1, 0])


def test_guidance_mixes_the_two_halves():
    def step(tokens, cache):
        return tokens.astype(jnp.float32)[..., None], cache

    tokens = jnp.array([[3], [4], [1], [2]])
    for g, expected in ((1.0, [3.0, 4.0]), (0.0, [1.0, 2.0]), (2.5, [6.0, 7.0])):
        logits, _ = guided(step, g)(tokens, None)
        np.testing.assert_allclose(logits[:, 0, 0], expected)


@functools.partial(jax.jit, static_argnames=("length", "sampling"))
def run(params, prompt, length, sampling, null_prompt=None):
    def step(tokens, cache):
        return MODEL.apply({"params": params}, tokens, cache, method="extend")

    rows = prompt.shape[0] * (1 if sampling.guidance == 1 else 2)
    keys = jax.random.split(jax.random.PRNGKey(0), prompt.shape[0])
    cache = empty_cache(CONFIG, rows, prompt.shape[1] + length)
    return generate(step, cache, prompt, length, keys, VOCABULARY.legal(), sampling, null_prompt)


PROMPT = jnp.array([[1, 4, 9], [1, 7, 8]], jnp.int32)


def test_greedy_decoding_equals_growing_the_sequence(params):
    tokens = run(params, PROMPT, 6, Sampling(temperature=0.0))
    sequence = np.asarray(PROMPT)
    forward = jax.jit(lambda tokens: MODEL.apply({"params": params}, tokens))
    for _ in range(6):
        padded = np.pad(sequence, ((0, 0), (0, 9 - sequence.shape[1])))
        first = VOCABULARY.semantic_start + 6 * ((sequence.shape[1] - 3) % 2)
        logits = np.asarray(forward(padded))[:, sequence.shape[1] - 1, first : first + 6]
        best = logits.argmax(-1)[:, None] + first
        sequence = np.concatenate([sequence, best], axis=1)
    np.testing.assert_array_equal(tokens, sequence[:, 3:])


def test_continuation_goes_on_where_the_prefix_ends(params):
    whole = run(params, PROMPT, 6, Sampling(temperature=0.0))
    longer = jnp.concatenate([PROMPT, whole[:, :2]], axis=1)
    np.testing.assert_array_equal(run(params, longer, 4, Sampling(temperature=0.0)), whole[:, 2:])


def test_only_legal_ids_are_drawn(params):
    tokens = np.asarray(run(params, jnp.tile(PROMPT, (8, 1)), 20, Sampling(temperature=5.0)))
    assert tokens.min() >= VOCABULARY.semantic_start and tokens.max() < VOCABULARY.control_start
    for level in range(2):  # those of one level and of the next in turn
        codes = tokens[:, level::2] - VOCABULARY.semantic_start - 6 * level
        assert codes.min() >= 0 and codes.max() < 6 and len(np.unique(codes)) == 6


def test_guidance_of_equal_prompts_changes_nothing(params):
    plain = run(params, PROMPT, 8, Sampling())
    np.testing.assert_array_equal(run(params, PROMPT, 8, Sampling(guidance=3.0), PROMPT), plain)
    other = run(params, PROMPT, 8, Sampling(guidance=3.0), PROMPT.at[:, 1:].set(VOCABULARY.unknown))
    assert not np.array_equal(other, plain)


def test_guidance_without_null_prompt_is_refused(params):
    with pytest.raises(ValueError, match="null_prompt"):
        run(params, PROMPT, 2, Sampling(guidance=2.0))


def test_rows_draw_for_themselves(params):
    """A row's tokens depend on its own key and prompt only."""
    both = run(params, PROMPT, 8, Sampling())
    swapped = run(params, PROMPT[::-1], 8, Sampling())
    same_prompt = run(params, PROMPT[jnp.array([0, 0])], 8, Sampling())
    np.testing.assert_array_equal(same_prompt[0], both[0])
    assert not np.array_equal(same_prompt[1], same_prompt[0])
    assert not np.array_equal(swapped, both[::-1])


@pytest.mark.parametrize(
    "fields", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"guidance": -1.0}]
)
def test_bad_sampling_is_refused(fields):
    with pytest.raises(UserError):
        Sampling(**fields)
