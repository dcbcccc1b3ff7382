"""The pre-training losses against NumPy, and the quantiser's contracts."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from melody_jax.semantic.config import QuantizerConfig
from melody_jax.semantic.loss import contrastive_loss, diversity_loss, perplexity
from melody_jax.semantic.quantizer import GumbelQuantizer, straight_through, temperature

RNG = np.random.default_rng(0)


def example(batch=2, frames=6, width=4, count=5):
    context, targets = (RNG.normal(size=(batch, frames, width)).astype(np.float32) for _ in range(2))
    codes = RNG.integers(0, 2, (batch, frames, 2)).astype(np.int32)
    mask = RNG.random((batch, frames)) < 0.6
    negatives = RNG.integers(0, frames, (batch, frames, count)).astype(np.int32)
    return context, targets, codes, mask, negatives


def by_hand(context, targets, codes, mask, negatives, pool, kappa):
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    flat, flat_codes = targets.reshape(-1, targets.shape[-1]), codes.reshape(-1, codes.shape[-1])
    losses, hits = [], []
    for b, t in np.argwhere(mask):
        right = cosine(context[b, t], targets[b, t])
        rivals = [(targets[b, n], codes[b, n]) for n in negatives[b, t]] + [(flat[n], flat_codes[n]) for n in pool]
        wrong = [cosine(context[b, t], q) for q, code in rivals if not np.array_equal(code, codes[b, t])]
        losses.append(-right / kappa + np.log(np.sum(np.exp(np.array([right, *wrong]) / kappa))))
        hits.append(all(right > w for w in wrong))
    return np.mean(losses), np.mean(hits)


def test_contrastive_loss_against_numpy():
    context, targets, codes, mask, negatives = example()
    for pool in ([], [0, 3, 11]):
        index = jnp.asarray(pool, jnp.int32) if pool else None
        arrays = map(jnp.asarray, (context, targets, codes, mask, negatives))
        loss, accuracy = jax.jit(contrastive_loss)(*arrays, pool=index, kappa=0.3)
        want = by_hand(context, targets, codes, mask, negatives, pool, 0.3)
        np.testing.assert_allclose([loss, accuracy], want, rtol=1e-5)


def test_a_distractor_with_the_right_codes_does_not_count():
    context, targets, codes, mask, negatives = map(jnp.asarray, example())
    loss, _ = jax.jit(contrastive_loss)(context, targets, jnp.zeros_like(codes), mask, negatives)
    assert float(loss) == 0.0


def test_diversity_loss_against_numpy():
    logits = RNG.normal(size=(2, 5, 2, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mask = np.arange(10).reshape(2, 5) % 3 > 0
    mean = probabilities[mask].mean(0)
    want = np.exp(-(mean * np.log(mean)).sum(-1)).sum()
    arrays = jnp.asarray(probabilities, jnp.float32), jnp.asarray(mask)
    np.testing.assert_allclose(perplexity(*arrays), want, rtol=1e-5)
    np.testing.assert_allclose(diversity_loss(*arrays), (6 - want) / 6, rtol=1e-4)


def test_diversity_is_zero_when_all_entries_are_used_alike():
    uniform = jnp.full((1, 4, 2, 8), 1 / 8)
    assert abs(float(diversity_loss(uniform, jnp.ones((1, 4), bool)))) < 1e-5


def test_straight_through_is_one_hot_with_the_softmax_gradient():
    logits, noise = (jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32) for _ in range(2))
    tau, weights = jnp.float32(0.7), jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)
    chosen = straight_through(logits, tau, noise)
    np.testing.assert_allclose(chosen, jax.nn.one_hot(jnp.argmax(logits + noise, -1), 6), atol=1e-6)
    hard = jax.grad(lambda x: jnp.sum(straight_through(x, tau, noise) * weights))(logits)
    soft = jax.grad(lambda x: jnp.sum(jax.nn.softmax((x + noise) / tau) * weights))(logits)
    np.testing.assert_allclose(hard, soft, atol=1e-6)


def test_the_quantiser_looks_entries_up():
    config = QuantizerConfig(groups=2, entries=5, width=6)
    module = GumbelQuantizer(config)
    x = jnp.asarray(RNG.normal(size=(2, 7, 4)), jnp.float32)
    variables = nn.unbox(jax.jit(module.init)(jax.random.PRNGKey(0), x))
    table = variables["params"]["codebooks"]
    for arguments in ((), (jnp.float32(1.0), jax.random.PRNGKey(3))):
        found = jax.jit(module.apply)(variables, x, *arguments)
        want = np.concatenate([table[g][found.codes[..., g]] for g in range(2)], axis=-1)
        np.testing.assert_allclose(found.vectors, want, atol=1e-6)
        if not arguments:
            np.testing.assert_array_equal(found.codes, jnp.argmax(found.probabilities, -1))


def test_temperature_falls_to_its_limit():
    config = QuantizerConfig(temperature_start=2.0, temperature_end=0.5, temperature_decay=0.9)
    values = [float(temperature(config, jnp.int32(step))) for step in (0, 1, 100)]
    np.testing.assert_allclose(values, [2.0, 1.8, 0.5], rtol=1e-6)
