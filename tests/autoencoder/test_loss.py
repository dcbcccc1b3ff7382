"""The losses and figures against plain NumPy, written from their definitions."""

import dataclasses

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.autoencoder import loss
from melody_jax.autoencoder.loss import LossConfig
from melody_jax.autoencoder.network import Posterior

RNG = np.random.default_rng(0)


def audio(batch=3, samples=4096):
    return RNG.standard_normal((batch, samples)).astype(np.float32) * 0.2


def test_kl_is_the_closed_form_and_agrees_with_sampling():
    mean, logvar = RNG.standard_normal((2, 2, 5, 3)).astype(np.float32)
    value = float(loss.kl_divergence(Posterior(jnp.asarray(mean), jnp.asarray(logvar))))
    assert value == pytest.approx(np.mean((mean**2 + np.exp(logvar) - 1 - logvar) / 2), rel=1e-5)
    noise = RNG.standard_normal((20_000, *mean.shape))
    sample = mean + np.exp(logvar / 2) * noise
    log_ratio = -0.5 * (noise**2 + logvar) + 0.5 * sample**2  # log q(z) - log p(z)
    assert value == pytest.approx(log_ratio.mean(), abs=0.02)
    assert float(loss.kl_divergence(Posterior(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3))))) == 0.0


@pytest.mark.parametrize("gan", ["hinge", "least_squares"])
def test_adversarial_losses(gan):
    real, fake = [RNG.standard_normal((2, n)) * 2 for n in (5, 9)], [RNG.standard_normal((2, n)) * 2 for n in (5, 9)]
    as_jax = [[jnp.asarray(x, jnp.float32) for x in scores] for scores in (real, fake)]
    pairs = list(zip(real, fake, strict=True))
    if gan == "hinge":
        want = np.mean([np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean() for r, f in pairs])
        want_generator = np.mean([-f.mean() for f in fake])
    else:
        want = np.mean([((1 - r) ** 2).mean() + (f**2).mean() for r, f in pairs])
        want_generator = np.mean([((1 - f) ** 2).mean() for f in fake])
    assert float(loss.discriminator_loss(*as_jax, gan)) == pytest.approx(want, rel=1e-5)
    assert float(loss.generator_loss(as_jax[1], gan)) == pytest.approx(want_generator, rel=1e-5)


def test_feature_matching_is_relative():
    real = [[RNG.standard_normal((2, 5)), RNG.standard_normal((2, 7, 3)) * 100]]
    fake = [[r + 0.1 * RNG.standard_normal(r.shape) * np.abs(r).mean() for r in real[0]]]
    want = np.mean([np.abs(r - f).mean() / np.abs(r).mean() for r, f in zip(real[0], fake[0], strict=True)])
    jaxed = [[[jnp.asarray(m, jnp.float32) for m in maps] for maps in side] for side in (real, fake)]
    assert float(loss.feature_matching(*jaxed)) == pytest.approx(want, rel=1e-4)


def test_si_sdr_against_its_definition():
    target = audio()
    estimate = 0.3 * target + 0.05 * audio() + 0.1
    want = []
    for s, e in zip(target.astype(np.float64), estimate.astype(np.float64), strict=True):
        s, e = s - s.mean(), e - e.mean()
        projection = (e @ s) / (s @ s) * s
        want.append(10 * np.log10((projection @ projection) / ((e - projection) @ (e - projection))))
    got = loss.si_sdr(jnp.asarray(target), jnp.asarray(estimate))
    np.testing.assert_allclose(got, want, rtol=1e-4)
    np.testing.assert_allclose(loss.si_sdr(jnp.asarray(target), jnp.asarray(7 * estimate)), want, rtol=1e-4)


def test_no_gradient_goes_through_the_targets_transforms():
    config = LossConfig(mel=1.0, stft=1.0, complex=1.0, spectral=1.0, ffts=(128,), mels=(8,), spectral_ffts=(64, 32))
    x, y = jnp.asarray(audio()), jnp.asarray(audio())
    total = jax.grad(lambda y: loss.weighted(loss.reconstruction_terms(x, y, config, 24_000), config))
    transforms = [eqn for eqn in _equations(jax.make_jaxpr(total)(y).jaxpr) if eqn.primitive.name == "fft"]
    shapes = [eqn.invars[0].aval.shape[0] for eqn in transforms]
    assert shapes == [3] * 9, "each of three transforms: of the target, of the estimate, and back to the estimate"


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from _equations(inner)


def test_terms_vanish_for_equal_audio_and_are_weighted_by_name():
    config = LossConfig(mel=2.0, stft=3.0, complex=5.0, waveform=7.0, ffts=(128, 256), mels=(8, 20))
    target, other = jnp.asarray(audio()), jnp.asarray(audio())
    terms_of = jax.jit(lambda x, y: loss.reconstruction_terms(x, y, config, 24_000))
    same = terms_of(target, target)
    assert set(same) == {"mel", "stft", "complex", "waveform"}
    assert float(same["mel"]) == float(same["stft"]) == float(same["complex"]) == 0.0
    assert float(same["waveform"]) < -10
    terms = terms_of(target, other)
    want = 2 * terms["mel"] + 3 * terms["stft"] + 5 * terms["complex"] + 7 * terms["waveform"]
    assert float(loss.weighted(terms, config)) == pytest.approx(float(want), rel=1e-6)
    assert set(loss.reconstruction_terms(target, other, LossConfig(mel=0.0), 24_000)) == set()


def test_the_published_distance_is_that_of_magnitudes_under_windows_of_half_the_transform():
    target, other = audio(2, 512), audio(2, 512)
    want = []
    for fft in (128, 32):
        window = np.zeros(fft)
        window[fft // 4 : -fft // 4] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(fft // 2) / (fft // 2))
        padded = [np.pad(x.astype(np.float64), ((0, 0), (fft // 2, fft // 2)), mode="reflect") for x in (target, other)]
        starts = range(0, 512 + 1, fft // 4)
        spectra = [np.abs(np.fft.rfft([x[:, s : s + fft] * window for s in starts])) for x in padded]
        want.append(np.mean(np.abs(spectra[0] - spectra[1])))
    config = LossConfig(mel=0.0, spectral=50.0, spectral_ffts=(128, 32))
    terms = loss.reconstruction_terms(jnp.asarray(target), jnp.asarray(other), config, 24_000)
    assert set(terms) == {"spectral"}
    assert float(terms["spectral"]) == pytest.approx(np.mean(want), rel=1e-3)
    assert float(loss.weighted(terms, config)) == pytest.approx(50 * float(terms["spectral"]), rel=1e-6)


def test_gradients_are_finite_for_silence():
    config = LossConfig(
        mel=1.0, stft=1.0, complex=1.0, spectral=1.0, waveform=1.0, ffts=(128,), mels=(8,), spectral_ffts=(64,)
    )
    silence = jnp.zeros((2, 1024))
    total = lambda x: loss.weighted(loss.reconstruction_terms(silence, x, config, 24_000), config)  # noqa: E731
    gradient = jax.jit(jax.grad(total))(silence)
    assert np.isfinite(gradient).all()


def test_gradient_balance_fixes_the_share():
    config = LossConfig(balance="gradient", adversarial_share=0.25)
    reconstruction, adversarial = jnp.asarray(audio()), 1000 * jnp.asarray(audio())
    scaled = loss.gradient_balance(reconstruction, adversarial, config) * adversarial
    assert float(jnp.linalg.norm(scaled) / jnp.linalg.norm(reconstruction)) == pytest.approx(0.25, rel=1e-4)
    fixed = dataclasses.replace(config, balance="fixed")
    assert float(loss.gradient_balance(reconstruction, adversarial, fixed)) == 1.0


def test_the_low_pass_removes_what_is_above():
    time = np.arange(24_000) / 24_000
    low, high = np.sin(2 * np.pi * 500 * time), np.sin(2 * np.pi * 5000 * time)
    both = jnp.asarray((low + high)[None], jnp.float32)
    np.testing.assert_allclose(loss.low_pass(both, 24_000)[0], low, atol=1e-3)
    assert float(loss.log_mel_distance(both, loss.low_pass(both, 24_000), 24_000)[0]) > 0.1
