"""Contracts of the autoencoder's networks: exact lengths, determinism, axes, and the paper's size."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax import dsp
from melody_jax.autoencoder.config import (
    AutoencoderConfig,
    ConvolutionalEncoderConfig,
    EnvelopeEncoderConfig,
    HiFiGANConfig,
    MagnitudeConfig,
)
from melody_jax.autoencoder.decoder_istft import synthesise
from melody_jax.autoencoder.decoder_magnitude import log_magnitude, waveform
from melody_jax.autoencoder.discriminators import Discriminators
from melody_jax.autoencoder.network import Autoencoder
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.nn.measured import MEASURED, joined, variables
from tests.autoencoder import tiny


def tone(batch=2, samples=960):
    time = np.arange(samples) / 24_000
    return jnp.asarray(0.3 * np.sin(2 * np.pi * np.arange(400, 400 + 100 * batch, 100)[:, None] * time), jnp.float32)


class Built:
    """A model with its variables and its compiled methods, `encode(params, x)` and so on."""

    def __init__(self, config):
        self.model = Autoencoder(config, tiny.GEOMETRY)
        self.boxed = jax.jit(self.model.init)(jax.random.key(0), tone(), jax.random.key(1))
        self.params = joined(*(nn.meta.unbox(self.boxed)[name] for name in ("params", MEASURED)))

    @functools.cache  # noqa: B019
    def method(self, name):
        return jax.jit(lambda params, *args: self.model.apply(variables(params), *args, method=name))

    def __getattr__(self, name):
        return self.method(name)


@pytest.fixture(scope="module", params=tiny.CONFIGS)
def built(request):
    return Built(tiny.CONFIGS[request.param])


def test_lengths_are_exact(built):
    for samples in (96, 960):
        output = built.method("__call__")(built.params, tone(samples=samples), jax.random.key(0))
        decoded = built.decode(built.params, output.latents)
        assert decoded.shape == (2, samples) and np.isfinite(decoded).all()
        assert output.latents.shape == output.posterior.mean.shape == output.posterior.logvar.shape
        assert output.latents.shape == (2, samples // 96, 4)
        assert decoded.dtype == output.posterior.mean.dtype == jnp.float32


def test_latents_of_envelopes_know_no_phases_and_no_other_frames():
    built, audio = Built(tiny.CONFIGS["envelope-magnitude"]), tone()
    upright, inverted = (built.encode(built.params, x) for x in (audio, -audio))
    np.testing.assert_allclose(upright.mean, inverted.mean, atol=1e-5)
    elsewhere = built.encode(built.params, audio.at[:, 600:].multiply(0.1))
    np.testing.assert_allclose(elsewhere.mean[:, :4], upright.mean[:, :4], atol=1e-5)
    assert np.abs(elsewhere.mean[:, 8:] - upright.mean[:, 8:]).max() > 1e-3
    output = built.method("__call__")(built.params, audio, jax.random.key(3))
    assert output.decoded.shape == (2, 20, 97)  # two spectra a latent frame


def test_music_has_the_magnitudes_that_the_decoder_asks_for():
    audio = tone(samples=9600)
    wanted = log_magnitude(audio, 384, 96)
    assert wanted.shape == (2, 100, 193)
    shape = MagnitudeConfig(window=384, iterations=8)
    found = jax.jit(lambda x: waveform(x, shape, 96))(wanted)
    assert found.shape == audio.shape
    noise = 0.1 * jax.random.normal(jax.random.key(0), audio.shape, jnp.float32)
    errors = [jnp.mean(jnp.abs(log_magnitude(x, 384, 96) - wanted)) for x in (found, noise)]
    assert float(errors[0]) < 0.2 * float(errors[1])


@pytest.mark.parametrize(
    "config, words",
    [
        (AutoencoderConfig("envelope", envelope=EnvelopeEncoderConfig(frames=5)), "encoder's 5 frames do not divide"),
        (AutoencoderConfig("envelope", envelope=EnvelopeEncoderConfig(window=97)), "window 97 must be 96 samples"),
        (AutoencoderConfig(decoder="magnitude", magnitude=MagnitudeConfig(window=288)), "even multiple of 96 samples"),
    ],
)
def test_spectra_must_fit_the_hop(config, words):
    with pytest.raises(UserError, match=words):
        config.check(Geometry())


def test_a_ragged_length_is_refused(built):
    with pytest.raises(ValueError, match="100 samples"):
        built.encode(built.params, tone(samples=100))


def test_the_noise_is_the_only_randomness(built):
    one, same, other = (built.method("__call__")(built.params, tone(), jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.decoded, same.decoded)
    np.testing.assert_array_equal(one.posterior.mean, other.posterior.mean)
    noise = (one.latents - one.posterior.mean) / jnp.exp(0.5 * one.posterior.logvar)
    assert 0.7 < float(jnp.std(noise)) < 1.3
    np.testing.assert_allclose(one.decoded, built.decoded(built.params, one.latents), atol=1e-2)


def test_scaled_latents_are_clipped_and_undone(built):
    mean = built.encode(built.params, tone()).mean
    params = built.params | {"latent_scale": 0.5 / jnp.max(jnp.abs(mean))}
    latents = built.to_latents(params, tone())
    assert float(jnp.max(jnp.abs(latents))) == pytest.approx(0.5, rel=1e-2)
    # bfloat16 networks round the scaled and rescaled latents differently
    direct = built.decode(params, mean)
    np.testing.assert_allclose(built.from_latents(params, latents), direct, atol=2e-2)
    params["latent_scale"] = 10.0 / jnp.max(jnp.abs(mean))
    assert float(jnp.max(jnp.abs(built.to_latents(params, tone())))) == 1.0


def test_every_parameter_has_logical_axes(built):
    players = jax.eval_shape(Discriminators(tiny.DISCRIMINATORS).init, jax.random.key(0), tone())
    trees = [built.boxed, players["params"]]
    boxed = [
        (path, leaf)
        for tree in trees
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, nn.Partitioned))
    ]
    for path, leaf in boxed:
        assert isinstance(leaf, nn.Partitioned), path
        assert len(leaf.names) == leaf.value.ndim, path


def test_the_paper_size_has_the_published_parameters():
    geometry = Geometry()
    model = Autoencoder(AutoencoderConfig(), geometry)
    audio = jax.ShapeDtypeStruct((1, 9600), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), audio, jax.random.key(0))["params"]
    counts = {name: sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()}
    assert abs(counts["encoder"] / 40e6 - 1) < 0.02
    assert abs(counts["decoder"] / 60.1e6 - 1) < 0.02
    assert abs(sum(counts.values()) / 100.1e6 - 1) < 0.02
    latents = jax.eval_shape(lambda p, x: model.apply({"params": p}, x, method="to_latents"), shapes, audio)
    assert latents.shape == (1, 100, 16)
    # rates, kernels and output channels of every stride
    assert geometry.hop == 96
    kernels = nn.meta.unbox(shapes)
    down = [kernels["encoder"][f"downsample_{i}"]["kernel"].shape for i in range(4)]
    up = [kernels["decoder"][f"upsample_{i}"]["kernel"].shape for i in range(4)]
    assert [(shape[0], shape[2]) for shape in down] == [(5, 32), (7, 64), (9, 128), (9, 256)]
    assert [(shape[0], shape[2]) for shape in up] == [(9, 768), (9, 384), (5, 192), (7, 96)]
    assert model.config.convolutional.strides == (2, 3, 4, 4)
    assert model.config.hifigan.strides == (4, 4, 3, 2)


def test_strides_must_multiply_to_the_hop():
    for config in (
        AutoencoderConfig(convolutional=ConvolutionalEncoderConfig(strides=(2, 2), downsample_kernels=(4, 4))),
        AutoencoderConfig(hifigan=HiFiGANConfig(strides=(5, 5), upsample_kernels=(5, 5))),
    ):
        with pytest.raises(UserError, match="do not multiply to hop 96"):
            config.check(Geometry())


def test_every_stride_has_a_kernel_that_covers_it():
    with pytest.raises(UserError, match="hifigan has 2 strides but 1 upsample_kernels"):
        HiFiGANConfig(strides=(12, 8), upsample_kernels=(24,))
    with pytest.raises(UserError, match="must not be smaller than its strides"):
        ConvolutionalEncoderConfig(strides=(12, 8), downsample_kernels=(24, 7))


def test_synthesis_inverts_the_windowed_analysis():
    """Frames of a signal times the head's own window overlap-add to a multiple of the signal, in place."""
    rng, hop, window = np.random.default_rng(0), 24, 96
    signal = rng.standard_normal((1, 480)).astype(np.float32)
    pad = (window - hop) // 2
    frames = dsp.frame(jnp.pad(jnp.asarray(signal), ((0, 0), (pad, pad))), window, hop)
    spectrum = np.fft.rfft(frames).astype(np.complex64)
    result = jax.jit(lambda re, im: synthesise(re, im, hop))(jnp.asarray(spectrum.real), jnp.asarray(spectrum.imag))
    assert result.shape == signal.shape
    inner = slice(window, -window)
    ratio = result[0, inner] / signal[0, inner]
    np.testing.assert_allclose(ratio, np.full_like(ratio, np.sqrt(window)), rtol=1e-3)


def test_discriminators_judge_each_waveform_alone():
    model = Discriminators(tiny.DISCRIMINATORS)
    audio = jax.random.normal(jax.random.key(0), (4, 961), jnp.float32)
    variables = nn.meta.unbox(jax.jit(model.init)(jax.random.key(1), audio))
    apply = jax.jit(model.apply)
    whole = apply(variables, audio)
    assert len(whole.scores) == len(whole.features) == 2
    first, second = whole.split()
    alone = apply(variables, audio[2:])
    pairs = [*zip(jax.tree.leaves(second), jax.tree.leaves(alone), strict=True)]
    pairs += zip(jax.tree.leaves(first), jax.tree.leaves(apply(variables, audio[:2])), strict=True)
    for half, whole_batch in pairs:
        np.testing.assert_allclose(half, whole_batch, atol=1e-5)
