"""The semantic encoder: lengths, sizes, features and their norm."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.nn.conformer import ConformerConfig
from melody_jax.nn.measured import MEASURED
from melody_jax.semantic.config import MelStemConfig, PretrainConfig, QuantizerConfig, SemanticConfig, WaveStemConfig
from melody_jax.semantic.feature_norm import FeatureNorm, calibrate, moments
from melody_jax.semantic.network import SemanticEncoder

GEOMETRY = Geometry(sample_rate=4000, hop=40, token_samples=160, clip_seconds=0.8)
CONFIG = SemanticConfig(
    wave=WaveStemConfig(channels=8, kernels=(10, 8, 6), strides=(5, 8, 4)),
    mel=MelStemConfig(channels=8, mels=8, fft=128, frames=4, kernel=6),
    width=8,
    conformer=ConformerConfig(layers=2, heads=2, hidden=16, kernel=3, convolution_norm="layer", dropout=0.0),
    feature_layer=1,
    feature_norm="none",
    quantizer=QuantizerConfig(groups=2, entries=6, width=8),
    projection=8,
    pretrain=PretrainConfig(mask_length=3, negatives=4, cross_negatives=6),
)


@functools.cache
def model(**changes):
    module = SemanticEncoder(dataclasses.replace(CONFIG, **changes), GEOMETRY)
    init = functools.partial(module.init, method="features")
    variables = nn.unbox(jax.jit(init)(jax.random.PRNGKey(0), jnp.zeros((1, 800))))
    return variables, jax.jit(module.apply, static_argnames="method")


@pytest.mark.parametrize("stem", ["wave", "mel"])
@pytest.mark.parametrize("samples", [160, 2239])
def test_one_frame_per_whole_token(stem, samples):
    variables, apply = model(stem=stem)
    audio = jax.random.normal(jax.random.PRNGKey(1), (2, samples))
    features = apply(variables, audio, method="features")
    assert features.shape == (2, samples // 160, 8) and bool(jnp.all(jnp.isfinite(features)))
    whole = audio[:, : samples // 160 * 160]
    np.testing.assert_allclose(features, apply(variables, whole, method="features"), atol=1e-5)


def test_too_little_audio_and_bad_strides_are_refused():
    variables, apply = model()
    with pytest.raises(UserError, match="shorter"):
        apply(variables, jnp.zeros((1, 159)), method="features")
    with pytest.raises(UserError, match="divide"):
        model(stem="mel", mel=MelStemConfig(frames=7, kernel=7))
    with pytest.raises(UserError, match="multiply"):
        model(wave=WaveStemConfig(kernels=(4, 4), strides=(4, 4)))


@pytest.mark.parametrize("stem", ["wave", "mel"])
def test_a_frame_sees_the_samples_of_its_token(stem):
    """An impulse in the middle of token 5 moves stem frame 5 most, whichever the stem."""
    variables, apply = model(stem=stem)
    quiet = 0.01 * jax.random.normal(jax.random.PRNGKey(2), (1, 1600))
    frames = [apply(variables, audio, method="stem_frames") for audio in (quiet, quiet.at[:, 860:900].add(1.0))]
    change = jnp.sum(jnp.square(frames[1] - frames[0]), axis=-1)[0]
    assert int(jnp.argmax(change)) == 5
    far = jnp.array([0, 1, 2, 8, 9])
    assert float(jnp.max(change[far])) < 1e-6 * float(change[5])


@functools.cache
def paper_state():
    module, key = SemanticEncoder(SemanticConfig(), Geometry()), jax.random.PRNGKey(0)
    return jax.eval_shape(lambda: module.init({"params": key}, jnp.zeros((1, 9600)), key, method="pretrain"))["params"]


def test_the_paper_size_is_the_published_one():
    count = sum(leaf.size for leaf in jax.tree.leaves(paper_state()))
    assert abs(count / 199.5e6 - 1) < 0.02


@pytest.mark.parametrize("stem", ["wave", "mel"])
@pytest.mark.parametrize("norm", ["standard", "whiten"])
def test_every_parameter_names_its_axes(stem, norm):
    conformer = dataclasses.replace(CONFIG.conformer, positions="relative", convolution_norm="batch")
    module = SemanticEncoder(dataclasses.replace(CONFIG, stem=stem, feature_norm=norm, conformer=conformer), GEOMETRY)
    key = jax.random.PRNGKey(0)
    for method, more in (("pretrain", (key,)), ("features", ())):
        init = functools.partial(module.init, method=method)
        params = jax.eval_shape(lambda init=init, more=more: init(key, jnp.zeros((1, 800)), *more))
        for path, leaf in jax.tree.leaves_with_path(params, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)):
            assert isinstance(leaf, nn.LogicallyPartitioned), jax.tree_util.keystr(path)
            assert len(leaf.names) == leaf.value.ndim, jax.tree_util.keystr(path)


def test_the_mask_hides_the_music():
    """What is under the mask does not reach the predictions; with nothing left to see, music makes no difference."""
    pretrain = dataclasses.replace(CONFIG.pretrain, mask_probability=1.0, mask_length=100)
    module = SemanticEncoder(dataclasses.replace(CONFIG, stem="mel", pretrain=pretrain), GEOMETRY)
    key = jax.random.PRNGKey(0)
    audio = jax.random.normal(jax.random.PRNGKey(1), (2, 1600))
    variables = nn.unbox(jax.jit(functools.partial(module.init, method="pretrain"))(key, audio, key))
    pretrain = jax.jit(functools.partial(module.apply, method="pretrain"))
    first, second = (pretrain(variables, a, key) for a in (audio, audio[::-1]))
    np.testing.assert_allclose(first.context, second.context, atol=1e-6)
    assert not np.allclose(first.quantized.probabilities, second.quantized.probabilities)


def test_feature_norm_standardises_and_whitens():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 500, 6)) @ rng.normal(size=(6, 6)) + 3.0, jnp.float32)
    halves = [jax.device_get(moments(part)) for part in (x[:2], x[2:])]
    total = {name: halves[0][name] + halves[1][name] for name in halves[0]}
    for kind, rank in (("standard", 0), ("whiten", 0), ("whiten", 3)):
        config = dataclasses.replace(CONFIG, width=6, feature_norm=kind, feature_rank=rank)
        y = FeatureNorm(kind, config.feature_width).apply({MEASURED: calibrate(total, config)}, x)
        flat = np.asarray(y).reshape(-1, rank or 6)
        np.testing.assert_allclose(flat.mean(0), 0.0, atol=1e-3)
        spread = np.cov(flat, rowvar=False)
        want = np.eye(rank or 6) if kind == "whiten" else None
        np.testing.assert_allclose(
            spread if kind == "whiten" else np.diag(spread), 1.0 if want is None else want, atol=2e-2
        )
    layered = FeatureNorm("layer", 6).apply({}, x)
    np.testing.assert_allclose(np.asarray(layered).mean(-1), 0.0, atol=1e-5)
