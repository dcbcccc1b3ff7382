"""Both towers together: shapes, lengths, norms, sizes, logical axes, independence of clips and positions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.config import from_dict, to_dict
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.mulan.config import MuLanConfig, MusicTowerConfig
from melody_jax.mulan.music_tower import MusicTower
from melody_jax.mulan.network import MuLan
from melody_jax.mulan.transformer import Transformer
from melody_jax.nn.measured import MEASURED
from melody_jax.parallel.rules import spec_for

from . import tiny


@pytest.fixture(scope="module")
def clips():
    return jax.random.normal(jax.random.PRNGKey(3), (3, tiny.GEOMETRY.clip_samples)) * 0.1


@pytest.fixture(scope="module")
def texts():
    return jnp.array([[5, 6, 7, 0], [5, 6, 0, 0], [9, 8, 7, 6]], jnp.int32)


@pytest.fixture(scope="module")
def variables(clips, texts):
    return nn.unbox(jax.jit(MuLan(tiny.CONFIG, tiny.GEOMETRY).init)(jax.random.PRNGKey(0), clips, texts))


def apply(config, method=None, **kwargs):
    return jax.jit(functools.partial(MuLan(config, tiny.GEOMETRY).apply, method=method, **kwargs))


def test_the_paper_size_has_the_published_number_of_parameters():
    geometry = Geometry()
    model = MuLan(MuLanConfig(), geometry)
    audio = jax.ShapeDtypeStruct((1, geometry.clip_samples), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), audio, jax.ShapeDtypeStruct((1, 8), jnp.int32))
    count = sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(shapes)))
    assert abs(count / 195.3e6 - 1) < 0.02
    ast_base = sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(shapes["params"]["music"])))
    assert abs(ast_base / 86.2e6 - 1) < 0.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_embeddings_are_unit_vectors_in_float32(variables, clips, texts, dtype):
    joint = apply(tiny.with_dtype(dtype))(variables, clips, texts)
    for x in (joint.music, joint.text):
        assert x.shape == (3, 8) and x.dtype == jnp.float32
        np.testing.assert_allclose(jnp.linalg.norm(x, axis=-1), 1, atol=1e-5)


def test_bfloat16_is_close_to_float32(variables, clips, texts):
    exact, rounded = (apply(tiny.with_dtype(d))(variables, clips, texts) for d in ("float32", "bfloat16"))
    assert float(jnp.min(jnp.sum(exact.music * rounded.music, axis=-1))) > 0.999
    assert float(jnp.min(jnp.sum(exact.text * rounded.text, axis=-1))) > 0.999


@pytest.mark.parametrize("samples", [1599, 1201, 200])
def test_music_of_any_length_up_to_a_clip(variables, clips, samples):
    assert apply(tiny.CONFIG, "embed_music")(variables, clips[:, :samples]).shape == (3, 8)


@pytest.mark.parametrize("samples", [3200, 160])
def test_music_of_impossible_length_is_refused(variables, samples):
    with pytest.raises(ValueError, match="frames"):
        apply(tiny.CONFIG, "embed_music")(variables, jnp.zeros((1, samples)))


def test_a_clip_does_not_see_its_neighbours_in_the_batch(variables, clips, texts):
    together = apply(tiny.CONFIG)(variables, clips, texts)
    alone = apply(tiny.CONFIG)(variables, clips[1:2], texts[1:2])
    np.testing.assert_allclose(together.music[1], alone.music[0], atol=1e-5)
    np.testing.assert_allclose(together.text[1], alone.text[0], atol=1e-5)


def test_patches_are_cut_where_a_convolution_would_cut_them():
    """Patch (f, t) starts at (f, t) times the strides, and is flattened with time running fastest."""
    tower = MusicTower(tiny.MUSIC, frames=41)
    x = jax.random.normal(jax.random.PRNGKey(0), (2, 41, 16))
    patches = tower.apply({}, x, method="_patches")
    high, wide = tiny.MUSIC.grid(41)
    assert (high, wide) == (3, 8) and patches.shape == (2, 24, 48)
    for f, t, band, frame in ((0, 0, 0, 0), (2, 7, 7, 5), (1, 3, 4, 2)):
        want = x[:, t * 5 + frame, f * 4 + band]
        np.testing.assert_array_equal(patches[:, f * wide + t, band * 6 + frame], want)


def test_every_parameter_has_logical_axes_that_the_mesh_knows(clips, texts):
    boxed = jax.eval_shape(MuLan(tiny.CONFIG, tiny.GEOMETRY).init, jax.random.PRNGKey(0), clips, texts)["params"]
    leaves = jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
    for leaf in leaves:
        assert isinstance(leaf, nn.LogicallyPartitioned) and len(leaf.names) == leaf.value.ndim
        spec_for(leaf.names)


def test_remat_gives_the_same_gradients():
    x = jax.random.normal(jax.random.PRNGKey(0), (2, 5, 8))

    def gradient(remat):
        encoder = Transformer(layers=2, heads=2, mlp=16, pre_norm=True, norm_eps=1e-6, remat=remat)
        params = nn.unbox(jax.jit(encoder.init)(jax.random.PRNGKey(1), x))
        return jax.jit(jax.grad(lambda p: jnp.sum(encoder.apply(p, x)[:, 0])))(params)

    plain = gradient("none")
    for remat in ("full", "dots"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, gradient(remat))


def test_centres_are_taken_away_and_get_no_gradient(variables, clips, texts):
    embed = apply(tiny.CONFIG, "embed_music")
    plain = embed(variables, clips)
    center = jnp.mean(plain, axis=0)
    shifted = {**variables, MEASURED: {**variables[MEASURED], "music_center": center}}
    want = plain - center[None]
    want = want / jnp.linalg.norm(want, axis=-1, keepdims=True)
    np.testing.assert_allclose(embed(shifted, clips), want, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(embed(v, clips))))(shifted)
    assert not np.any(gradient[MEASURED]["music_center"])
    assert np.any(gradient["params"]["music_projection"]["out"]["kernel"])


def test_dropout_is_off_unless_asked_for(variables, clips):
    config = dataclasses.replace(tiny.CONFIG, music=dataclasses.replace(tiny.MUSIC, dropout=0.5))
    x = jnp.ones((2, 41, 16))
    quiet = apply(config, "embed_spectrogram")(variables, x)
    np.testing.assert_allclose(quiet, apply(tiny.CONFIG, "embed_spectrogram")(variables, x), atol=1e-6)
    keys = {"dropout": jax.random.PRNGKey(1)}
    loud = apply(config, "embed_spectrogram", deterministic=False, rngs=keys)(variables, x)
    assert float(jnp.abs(loud - quiet).max()) > 1e-3


@pytest.mark.parametrize("tower", ["music", "text"])
def test_the_tanh_gelu_is_near_the_exact_one_and_not_the_same(variables, clips, texts, tower):
    def joint(activation):
        changed = dataclasses.replace(getattr(tiny.CONFIG, tower), activation=activation)
        return apply(dataclasses.replace(tiny.CONFIG, **{tower: changed}))(variables, clips, texts)

    exact, approximate, other = map(joint, ("gelu", "gelu_tanh", "relu"))
    near, far = (float(jnp.abs(getattr(exact, tower) - getattr(x, tower)).max()) for x in (approximate, other))
    assert 0 < near < 2e-3 and near < 0.05 * far


def test_config_survives_json():
    config = dataclasses.replace(tiny.CONFIG, text_hidden=(32, 16), center=True)
    assert from_dict(MuLanConfig, to_dict(config)) == config


def test_impossible_shapes_are_refused():
    for make in (
        lambda: MusicTowerConfig(width=10, heads=3),
        lambda: MusicTowerConfig(mels=8),
        lambda: dataclasses.replace(tiny.TEXT, pooling="max"),
        lambda: dataclasses.replace(tiny.TEXT, activation="swiglu"),
        lambda: MusicTowerConfig(activation="mish"),
        lambda: dataclasses.replace(tiny.CONFIG, text_length=17),
        lambda: MuLanConfig(train_text_tower=False),
    ):
        with pytest.raises(UserError):
            make()
