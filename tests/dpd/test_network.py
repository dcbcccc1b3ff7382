"""The whole network: its published size, its logical axes, dropped conditions, lengths, precisions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.codes import controls
from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.dpd import DPD, DPDConfig
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry

GEOMETRY = Geometry(hop=480, latent_channels=3, clip_seconds=0.4, semantic_codes=7)
TINY = DPDConfig(
    width=8,
    blocks=2,
    segment=6,
    heads=2,
    coarse_layers=1,
    hidden=12,
    recurrent_width=4,
    recurrent_layers=1,
    recurrence="sequential",
    angle_width=6,
)


def _inputs(frames=20, batch=2, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    noisy = jax.random.normal(keys[0], (batch, frames, 3))
    angles = jax.random.uniform(keys[1], (batch, frames), maxval=1.5)
    tokens = jax.random.randint(keys[2], (batch, -(-frames // 2)), 0, 7)
    return noisy, angles, tokens


@pytest.fixture(scope="module")
def variables():
    return nn.unbox(jax.jit(DPD(TINY, GEOMETRY).init)(jax.random.key(1), *_inputs()))


def _apply(variables, *inputs, config=TINY):
    return jax.jit(DPD(config, GEOMETRY).apply)(variables, *inputs)


def _shapes(config, geometry):
    return jax.eval_shape(
        lambda key: DPD(config, geometry).init(
            key,
            jnp.zeros((1, 100, geometry.latent_channels)),
            jnp.zeros((1, 100)),
            jnp.zeros((1, 10), jnp.int32),
        ),
        jax.random.key(0),
    )


def test_published_parameter_count():
    leaves = jax.tree.leaves(_shapes(DPDConfig(), Geometry()))
    assert sum(leaf.size for leaf in leaves) == pytest.approx(296.6e6, rel=0.02)


def test_every_parameter_names_its_axes():
    boxes = jax.tree.leaves(_shapes(TINY, GEOMETRY), is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    for box in boxes:
        assert isinstance(box, nn.LogicallyPartitioned)
        assert len(box.names) == box.value.ndim and None not in box.names


@pytest.mark.parametrize("frames", [1, 6, 33])
def test_any_length_gives_a_velocity_per_frame(variables, frames):
    out = _apply(variables, *_inputs(frames))
    assert out.shape == (2, frames, 3) and out.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(out)))


def test_clips_do_not_mix(variables):
    noisy, angles, tokens = _inputs()
    alone = _apply(variables, noisy[:1], angles[:1], tokens[:1])
    np.testing.assert_allclose(_apply(variables, noisy, angles, tokens)[:1], alone, atol=1e-5)


def test_condition_matters_unless_dropped(variables):
    noisy, angles, tokens = _inputs()
    keep = jnp.array([True, False])
    one, other = (_apply(variables, noisy, angles, t, keep) for t in (tokens, 6 - tokens))
    assert not np.allclose(one[0], other[0], atol=1e-4)
    np.testing.assert_array_equal(one[1], other[1])
    kept = _apply(variables, noisy, angles, tokens, jnp.ones(2, bool))
    np.testing.assert_allclose(_apply(variables, noisy, angles, tokens), kept, atol=1e-5)


def test_a_prompt_is_learnt_beside_the_tokens():
    """It changes nothing before training; then it does, unless the condition is dropped; none given is a dropped one."""
    config, inputs = dataclasses.replace(TINY, prompt=True), _inputs()
    vocabulary = Vocabulary.of(GEOMETRY, controls=True)
    codes = jnp.zeros((2, GEOMETRY.mulan_tokens), jnp.int32)
    condition = vocabulary.condition(codes, controls=jnp.ones((2, len(controls.SLOTS)), jnp.int32))
    variables = nn.unbox(jax.jit(DPD(config, GEOMETRY).init)(jax.random.key(1), *inputs))
    keep, none = jnp.ones(2, bool), jnp.zeros(2, bool)
    same = _apply(variables, *inputs, keep, condition + 1, config=config)
    np.testing.assert_array_equal(_apply(variables, *inputs, keep, condition, config=config), same)
    lookup = variables["params"]["prompt"]["lookup"]
    lookup["embedding"] = jax.random.normal(jax.random.key(2), lookup["embedding"].shape)
    told, other, untold = (
        _apply(variables, *inputs, keep, asked, config=config)
        for asked in (condition, condition.at[:, -1].add(1), None)
    )
    assert float(jnp.abs(told - other).max()) > 1e-3 and float(jnp.abs(told - untold).max()) > 1e-3
    dropped = _apply(variables, *inputs, none, condition, config=config)
    np.testing.assert_array_equal(dropped, _apply(variables, *inputs, none, condition.at[:, 1:].add(1), config=config))
    nothing = vocabulary.without_condition(condition)
    np.testing.assert_array_equal(untold, _apply(variables, *inputs, keep, nothing, config=config))


def test_every_frame_knows_its_own_angle(variables):
    noisy, angles, tokens = _inputs()
    before = _apply(variables, noisy, angles, tokens)
    after = _apply(variables, noisy, angles.at[:, 7].add(-0.5), tokens)
    assert float(jnp.abs(after - before)[:, 7].max()) > 1e-3


def _loss_and_gradients(config):
    """Of one block, which compiles fast, with and without the condition."""
    noisy, angles, tokens = _inputs()
    config = dataclasses.replace(config, blocks=1)
    variables = nn.unbox(jax.jit(DPD(config, GEOMETRY).init)(jax.random.key(1), noisy, angles, tokens))
    keep = jnp.array([True, False])

    def loss(params):
        return jnp.mean(jnp.square(DPD(config, GEOMETRY).apply(params, noisy, angles, tokens, keep) - 1))

    return jax.jit(jax.value_and_grad(loss))(variables)


@pytest.fixture(scope="module")
def plain():
    return _loss_and_gradients(TINY)


@pytest.mark.parametrize("change", [{"recurrence": "associative", "remat": "full"}, {"remat": "dots"}])
def test_recurrence_and_remat_change_nothing_but_cost(plain, change):
    loss, gradients = _loss_and_gradients(dataclasses.replace(TINY, **change))
    np.testing.assert_allclose(loss, plain[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, plain[1])


@pytest.mark.parametrize("film", ["frame", "segment"])
def test_every_parameter_learns(plain, film):
    _, gradients = plain if film == TINY.film else _loss_and_gradients(dataclasses.replace(TINY, film=film))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert bool(jnp.all(jnp.isfinite(leaf))) and float(jnp.abs(leaf).max()) > 0, jax.tree_util.keystr(path)


def test_bfloat16_is_close(variables):
    half = _apply(variables, *_inputs(), config=dataclasses.replace(TINY, dtype="bfloat16"))
    full = _apply(variables, *_inputs())
    assert half.dtype == jnp.float32
    assert float(jnp.abs(half - full).mean() / jnp.abs(full).mean()) < 0.05


@pytest.mark.parametrize(
    "bad",
    [{"segment": 7}, {"heads": 3}, {"recurrence": "parallel"}, {"film": "token"}, {"remat": "some"}, {"data_std": 0.0}],
)
def test_bad_configs_are_refused(bad):
    with pytest.raises(UserError):
        dataclasses.replace(TINY, **bad)
