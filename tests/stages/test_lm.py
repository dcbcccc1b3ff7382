"""The language-model stage: what is dropped, what counts, and that it learns to read the prefix."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.codes import controls
from melody_jax.geometry import Geometry
from melody_jax.lm.config import LMConfig
from melody_jax.lm.loss import token_losses
from melody_jax.stages.lm import LMStage
from melody_jax.train.optim import OptimConfig

GEOMETRY = Geometry(clip_seconds=0.4, mulan_tokens=3, mulan_codes=4, semantic_codes=6)
STAGE = LMStage(
    config=LMConfig(layers=1, width=16, heads=2, hidden=32),
    geometry=GEOMETRY,
    optim=OptimConfig(learning_rate=1e-2, warmup_steps=5, total_steps=150, ema_decay=0.9),
    batch_size=16,
)


def batch_of(seed):
    """Clips whose semantic tokens are all their first MuLan code: nothing but the prefix tells the first of them."""
    rng = np.random.default_rng(seed)
    mulan, text = rng.integers(0, 4, (2, 16, 3)).astype(np.int32)
    return {
        "mulan": jnp.asarray(mulan),
        "text": jnp.asarray(text),
        "semantic": jnp.asarray(np.tile(mulan[:, :1], (1, 10))),
    }


@pytest.fixture(scope="module")
def state():
    return nn.unbox(jax.jit(STAGE.init)(jax.random.PRNGKey(0)))


def test_shapes_and_part(tmp_path):
    shapes = STAGE.batch_shapes()
    assert {name: shape.shape for name, shape in shapes.items()} == {
        "mulan": (16, 3),
        "text": (16, 3),
        "semantic": (16, 10),
    }


def test_loss_counts_semantic_tokens_only(state):
    """Against the definition: mean over the ten semantic tokens, each predicted from what stands before it."""
    batch = batch_of(0)
    still = dataclasses.replace(STAGE, condition_dropout=0.0)
    metrics = jax.jit(still.train_step)(state, batch)[1]
    tokens = STAGE.vocabulary.sequence(batch["mulan"], batch["semantic"])
    losses = token_losses(STAGE.model.apply({"params": state.params}, tokens)[:, :-1], tokens[:, 1:])
    np.testing.assert_allclose(metrics["loss"], losses[:, 3:].mean(), rtol=1e-5)
    both = dataclasses.replace(still, prefix_weight=0.5)
    expected = (losses[:, 3:].sum() + 0.5 * losses[:, :3].sum()) / (16 * (10 + 1.5))
    np.testing.assert_allclose(jax.jit(both.train_step)(state, batch)[1]["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("condition, level", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.3, 0.5)])
def test_dropped_prefixes(condition, level):
    stage = dataclasses.replace(STAGE, condition_dropout=condition, level_dropout=level)
    tokens = jnp.full((2000, 14), 9, jnp.int32)
    dropped = np.asarray(stage._forgotten(jax.random.PRNGKey(1), tokens) == stage.vocabulary.unknown)
    assert not dropped[:, 0].any() and not dropped[:, 4:].any()
    kept = 3 - dropped[:, 1:4].sum(axis=1)
    np.testing.assert_array_equal(dropped[:, 1:4], np.arange(3)[None] >= kept[:, None])  # always the last levels
    shares = np.bincount(kept, minlength=4) / 2000
    partial = (1 - condition) * level / 2
    np.testing.assert_allclose(shares, [condition, partial, partial, (1 - condition) * (1 - level)], atol=0.04)


def test_hidden_history(state):
    """A share of the semantic tokens is hidden from what follows, none of the prefix, and all of it counts in the loss."""
    tokens = jnp.full((500, 14), 9, jnp.int32)
    some = dataclasses.replace(STAGE, condition_dropout=0.0, history_dropout=0.3)
    hidden = np.asarray(some._drop_history(jax.random.PRNGKey(1), tokens) == some.vocabulary.unknown)
    assert not hidden[:, :4].any()
    np.testing.assert_allclose(hidden[:, 4:].mean(axis=0), 0.3, atol=0.08)
    batch, unknown = batch_of(0), some.vocabulary.unknown
    sequence = some.vocabulary.sequence(batch["mulan"], batch["semantic"])
    unseen = sequence.at[:, 4:].set(unknown)
    losses = token_losses(some.model.apply({"params": state.params}, unseen)[:, :-1], sequence[:, 1:])
    every = dataclasses.replace(some, history_dropout=1.0)
    np.testing.assert_allclose(jax.jit(every.train_step)(state, batch)[1]["loss"], losses[:, 3:].mean(), rtol=1e-5)


def test_a_window_is_drawn_anywhere_in_a_clip():
    stage = dataclasses.replace(STAGE, config=dataclasses.replace(STAGE.config, window=4))
    clips = jnp.arange(10, dtype=jnp.int32)[None] + 100 * jnp.arange(500, dtype=jnp.int32)[:, None]
    drawn, starts = map(np.asarray, stage._draw_window(jax.random.PRNGKey(3), clips))
    np.testing.assert_array_equal(drawn[:, 0] % 100, starts)
    starts = drawn[:, 0] - 100 * np.arange(500)
    np.testing.assert_array_equal(drawn - drawn[:, :1], np.tile(np.arange(4), (500, 1)))
    assert set(starts) == set(range(7))  # the first and the last place included
    assert np.bincount(starts).min() > 500 / 7 / 2
    longer = dataclasses.replace(STAGE, config=dataclasses.replace(STAGE.config, window=99))
    np.testing.assert_array_equal(longer._draw_window(jax.random.PRNGKey(3), clips)[0], clips)


def test_windows_are_evaluated_under_their_own_clips_prefix(state):
    """Against the definition: three windows of four cover ten tokens."""
    stage = dataclasses.replace(STAGE, config=dataclasses.replace(STAGE.config, window=4))
    batch = batch_of(4)
    metrics = jax.jit(stage.eval_step)(state, batch)
    for label, prefixes in {"": batch["mulan"], "shuffled_": np.roll(batch["mulan"], 1, axis=0)}.items():
        losses = []
        for start in (0, 3, 6):
            window = batch["semantic"][:, start : start + 4]
            tokens = STAGE.vocabulary.sequence(jnp.asarray(prefixes), window)
            logits = STAGE.model.apply({"params": state.averaged}, tokens[:, :-1])
            losses.append(token_losses(logits, tokens[:, 1:])[:, 3:].mean())
        np.testing.assert_allclose(metrics[f"{label}loss"], np.mean(losses), rtol=1e-5)


def test_its_own_draws_in_the_history(state):
    """Up to the share of a clip's semantic tokens, for each clip another; what is drawn is of its level, the rest is kept."""
    stage = dataclasses.replace(STAGE, own_history=1.0)
    tokens = jnp.tile(stage.vocabulary.sequence(batch_of(0)["mulan"], batch_of(0)["semantic"]), (40, 1))
    own = np.asarray(jax.jit(stage._own_history)(jax.random.PRNGKey(3), state.params, tokens))
    first = stage.vocabulary.prefix
    np.testing.assert_array_equal(own[:, :first], tokens[:, :first])
    assert np.all(stage.vocabulary.semantic_codes_of(jnp.asarray(own[:, first:])) >= 0)
    changed = (own != np.asarray(tokens))[:, first:].mean(axis=1)
    assert changed.min() < 0.2 and changed.max() > 0.5 and 0.2 < changed.mean() < 0.5  # some draws are what was there
    assert STAGE._own_history(jax.random.PRNGKey(3), state.params, tokens) is tokens


def test_a_second_pass_follows_the_draws_of_the_first(state):
    """Up to the first token that another took the place of, both have the same before them, and draw the same."""
    tokens = jnp.tile(STAGE.vocabulary.sequence(batch_of(0)["mulan"], batch_of(0)["semantic"]), (40, 1))
    once, twice = (
        np.asarray(jax.jit(stage._own_history)(jax.random.PRNGKey(3), state.params, tokens))
        for stage in (dataclasses.replace(STAGE, own_history=1.0, own_passes=passes) for passes in (1, 2))
    )
    changed = once != np.asarray(tokens)
    rows = np.flatnonzero(changed.any(axis=1))
    for row, first in zip(rows, changed[rows].argmax(axis=1), strict=True):
        np.testing.assert_array_equal(once[row, : first + 1], twice[row, : first + 1])
    assert len(rows) > 20 and (once != twice).any()


@pytest.mark.parametrize("share, read, unread", [(0.0, "mulan", "text"), (1.0, "text", "mulan")])
def test_the_condition_is_the_musics_or_the_captions(state, share, read, unread):
    step = jax.jit(dataclasses.replace(STAGE, text_share=share, condition_dropout=0.0).train_step)
    batch = batch_of(0)
    loss = step(state, batch)[1]["loss"]
    assert step(state, {**batch, unread: (batch[unread] + 1) % 4})[1]["loss"] == loss
    assert step(state, {**batch, read: (batch[read] + 1) % 4})[1]["loss"] != loss


def test_evaluation_on_captions(state):
    """`text_*` is what `loss` and `perplexity` are where the music has its caption's codes; the others ignore it."""
    evaluate, batch = jax.jit(STAGE.eval_step), batch_of(0)
    metrics, swapped = (
        evaluate(state, batch),
        evaluate(state, {**batch, "mulan": batch["text"], "text": batch["mulan"]}),
    )
    for name in ("loss", "perplexity"):
        np.testing.assert_allclose(metrics[f"text_{name}"], swapped[name], rtol=1e-6)
        np.testing.assert_allclose(metrics[name], swapped[f"text_{name}"], rtol=1e-6)
        assert metrics[f"text_{name}"] != metrics[name]
    other = evaluate(state, {**batch, "text": (batch["text"] + 1) % 4})
    assert {name for name in metrics if metrics[name] != other[name]} == {"text_loss", "text_perplexity"}


def test_learns_to_read_the_prefix(state):
    step, evaluate = jax.jit(STAGE.train_step), jax.jit(STAGE.eval_step)
    for i in range(150):
        state, _ = step(state, batch_of(i))
    metrics = {name: float(value) for name, value in evaluate(state, batch_of(1000)).items()}
    assert metrics["perplexity"] < 1.3
    assert metrics["shuffled_perplexity"] > 1.3 * metrics["perplexity"]
    assert metrics["perplexity"] < metrics["unconditional_perplexity"] < metrics["shuffled_perplexity"]
    np.testing.assert_allclose(np.exp(metrics["loss"]), metrics["perplexity"], rtol=1e-5)


def test_same_step_same_numbers(state):
    """Dropout and dropped conditions depend on the key and the step alone."""
    noisy = dataclasses.replace(
        STAGE, config=dataclasses.replace(STAGE.config, dropout=0.3), condition_dropout=0.5, level_dropout=0.5
    )
    step = jax.jit(noisy.train_step)
    first, again = step(state, batch_of(0)), step(state, batch_of(0))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    later = step(state.replace(step=state.step + 1), batch_of(0))
    assert float(later[1]["loss"]) != float(first[1]["loss"])


def test_music_on_the_beat_is_learnt_from_windows():
    """Each clip's tokens say on which half of a beat they stand, of tempi of its own; windows begin anywhere."""
    geometry = Geometry(clip_seconds=4.0, mulan_tokens=3, mulan_codes=4, semantic_codes=6)
    stage = dataclasses.replace(
        STAGE,
        config=dataclasses.replace(STAGE.config, window=10, controls=True, beats=True),
        geometry=geometry,
        control_dropout=0.0,
        optim=OptimConfig(learning_rate=3e-2, warmup_steps=5, total_steps=60),
    )
    rng = np.random.default_rng(0)
    tempi = rng.choice([60.0, 75.0, 100.0, 125.0], 16)
    codes = np.stack([controls.encode(controls.Controls(float(tempo), downbeat=0.0)) for tempo in tempi])
    half = (np.arange(100)[None] * tempi[:, None] / (60 * 25) * 2 + 1e-6).astype(int) % 2
    batch = {
        "mulan": jnp.zeros((16, 3), jnp.int32),
        "text": jnp.zeros((16, 3), jnp.int32),
        "semantic": jnp.asarray(
            2 * half + rng.integers(0, 2, half.shape), jnp.int32
        ),  # beside it, what nobody can know
        "controls": jnp.asarray(codes),
    }
    state, step = nn.unbox(jax.jit(stage.init)(jax.random.PRNGKey(0))), jax.jit(stage.train_step)
    for _ in range(60):
        state, _ = step(state, batch)
    metrics = jax.jit(stage.metrics)(state.params, batch)
    assert metrics["perplexity"] < 2.15 and metrics["unconditional_perplexity"] > 2.5
