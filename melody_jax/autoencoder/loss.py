"""The losses of the VAE-GAN and the figures that judge it. Everything here is float32: errors of loud and quiet parts
differ by four orders of magnitude, which bfloat16 cannot hold in one sum.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from melody_jax import dsp
from melody_jax.autoencoder.decoder_magnitude import log_magnitude, magnitude
from melody_jax.autoencoder.network import Posterior
from melody_jax.shapes import Array, Float

Terms = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights and shapes of the loss terms; a weight of 0 leaves its term out of the graph.

    Attributes:
      mel: weight of the multi-resolution log-mel distance.
      stft: weight of the multi-resolution log-magnitude distance over all bins.
      complex: weight of the complex-spectrum distance (magnitude and phase at once).
      spectral: weight of the multi-resolution distance of magnitudes themselves, the published reconstruction term.
      waveform: weight of the log noise-to-signal ratio of the waveform.
      magnitude: weight of the log-magnitude distance, bin by bin, of a decoder "magnitude".
      magnitude_mel: weight of the same over mel bands: where the bins of a partial are uncertain their logarithms' median
        is quiet, which would take the partial's energy away.
      magnitude_bands: number of these mel bands.
      kl: weight of the Kullback-Leibler term, nats a latent channel and frame.
      adversarial: weight of the generator's adversarial term.
      features: weight of the feature-matching term.
      ffts: window sizes of `mel`, `stft` and `complex`, hop = window / 4.
      mels: mel bands for each of them.
      spectral_ffts: transform sizes of `spectral`, window = size / 2, hop = size / 4.
      gan: "hinge" (Lim and Ye, 2017) or "least_squares" (Mao et al., 2017).
      balance: "fixed": the weights above as they are; "gradient": the two adversarial terms together are scaled so that
        the norm of their gradient at the waveform is `adversarial_share` times that of the reconstruction terms (the
        adaptive weight of Esser et al., "VQGAN", 2021, eq. 7, taken at the output as in Encodec).
      adversarial_share: see `balance`.
    """

    mel: float = 15.0
    stft: float = 0.0
    complex: float = 0.0
    spectral: float = 0.0
    waveform: float = 0.0
    magnitude: float = 1.0
    magnitude_mel: float = 4.0
    magnitude_bands: int = 96
    kl: float = 1e-2
    adversarial: float = 1.0
    features: float = 2.0
    ffts: tuple[int, ...] = (256, 512, 1024, 2048)
    mels: tuple[int, ...] = (20, 40, 80, 160)
    spectral_ffts: tuple[int, ...] = (8192, 4096, 2048, 512, 128, 64, 32)
    gan: Literal["hinge", "least_squares"] = "hinge"
    balance: Literal["fixed", "gradient"] = "fixed"
    adversarial_share: float = 0.3


def kl_divergence(posterior: Posterior) -> Float[Array, ""]:
    """KL(q(z | x) || N(0, 1)), nats, mean over batch, frames and channels (Kingma and Welling, 2014, appendix B)."""
    mean, logvar = posterior.mean, posterior.logvar
    return 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)


def reconstruction_terms(
    audio: Float[Array, "B T"],
    decoded: Float[Array, "B T"],
    config: LossConfig,
    sample_rate: int,
) -> Terms:
    """The unweighted reconstruction terms in use, each a scalar."""
    terms: Terms = {}
    if config.waveform:
        terms["waveform"] = noise_to_signal(audio, decoded)
    if config.spectral:
        terms["spectral"] = spectral_distance(audio, decoded, config.spectral_ffts)
    names = [name for name in ("mel", "stft", "complex") if getattr(config, name)]
    for fft, mels in zip(config.ffts, config.mels, strict=True) if names else ():
        bank = jnp.asarray(dsp.mel_filterbank(sample_rate, fft, mels))
        features = {
            "mel": lambda s, m, b=bank: jnp.log(m @ b + 1e-4),
            "stft": lambda s, m: jnp.log(m + 1e-3),
            # compressed, X |X|^-1/2, so that the phases of quiet partials count too
            "complex": lambda s, m: (jnp.real(s) * jax.lax.rsqrt(m), jnp.imag(s) * jax.lax.rsqrt(m)),
        }
        target, estimate = (_spectra(x, fft) for x in (audio, decoded))
        for name in names:
            distance = _mean_absolute(features[name](*target), features[name](*estimate))
            terms[name] = terms.get(name, jnp.zeros(())) + distance / len(config.ffts)
    return terms


def spectral_distance(
    audio: Float[Array, "B T"], decoded: Float[Array, "B T"], ffts: Sequence[int]
) -> Float[Array, ""]:
    """Mean |(|X| - |Y|)| over bins and frames, mean over the transforms; Hann windows of half the transform, not normalised."""
    total = jnp.zeros(())
    for fft in ffts:
        (_, target), (_, estimate) = (_spectra(x, fft, fft // 2) for x in (audio, decoded))
        total += _mean_absolute(target, estimate)
    return total / len(ffts)


def _spectra(x: Float[Array, "B T"], fft: int, window: int | None = None) -> tuple[Array, Array]:
    """Spectrum and magnitude. Of one waveform a call: in a transform of both, gradients would go through the target's half
    for nothing."""
    spectrum = dsp.stft(x, fft, fft // 4, window)
    power = jnp.square(jnp.real(spectrum)) + jnp.square(jnp.imag(spectrum))
    return spectrum, jnp.sqrt(power + 1e-9)  # the root's slope at zero is infinite


def _mean_absolute(target: Any, estimate: Any) -> Array:
    """Mean |x - y|, summed over the arrays of a tuple; no gradient goes to the target."""
    pairs = zip(jax.tree.leaves(target), jax.tree.leaves(estimate), strict=True)
    each = [jnp.mean(jnp.abs(jax.lax.stop_gradient(x) - y)) for x, y in pairs]
    return sum(each[1:], each[0])


def noise_to_signal(audio: Float[Array, "B T"], decoded: Float[Array, "B T"]) -> Float[Array, ""]:
    """log(error power / signal power), mean over the batch: minus SNR in nats.

    The floor (-60 dB of full scale) keeps silent clips from ruling.
    """
    error, power = jnp.mean(jnp.square(audio - decoded), 1), jnp.mean(jnp.square(audio), 1)
    return jnp.mean(jnp.log((error + 1e-6) / (power + 1e-6)))


def magnitude_terms(
    audio: Float[Array, "B T"], predicted: Float[Array, "B F bins"], config: LossConfig, sample_rate: int
) -> Terms:
    """Unweighted mean absolute errors of a magnitude decoder's log magnitudes, nats: of bins and of mel bands."""
    window, hop = 2 * (predicted.shape[-1] - 1), audio.shape[1] // predicted.shape[1]
    target = log_magnitude(audio, window, hop)
    bank = jnp.asarray(dsp.mel_filterbank(sample_rate, window, config.magnitude_bands))
    bands = [jnp.log(magnitude(x) @ bank + 1e-4) for x in (target, predicted)]
    return {"magnitude": _mean_absolute(target, predicted), "magnitude_mel": _mean_absolute(*bands)}


def discriminator_loss(real: Sequence[Array], fake: Sequence[Array], gan: str) -> Float[Array, ""]:
    """The discriminators' loss, mean over them; `real` and `fake` are their maps of scores."""
    pairs = zip(real, fake, strict=True)
    if gan == "hinge":
        each = [jnp.mean(jax.nn.relu(1.0 - r)) + jnp.mean(jax.nn.relu(1.0 + f)) for r, f in pairs]
    else:
        each = [jnp.mean(jnp.square(1.0 - r)) + jnp.mean(jnp.square(f)) for r, f in pairs]
    return sum(each[1:], each[0]) / len(each)


def generator_loss(fake: Sequence[Array], gan: str) -> Float[Array, ""]:
    """The generator's adversarial loss, mean over discriminators."""
    each = [-jnp.mean(f) if gan == "hinge" else jnp.mean(jnp.square(1.0 - f)) for f in fake]
    return sum(each[1:], each[0]) / len(each)


def feature_matching(real: Sequence[Sequence[Array]], fake: Sequence[Sequence[Array]]) -> Float[Array, ""]:
    """Mean absolute difference of the discriminators' hidden maps, relative to the real ones' mean magnitude (as in
    Encodec, so that no layer's scale rules)."""
    each = []
    for real_maps, fake_maps in zip(real, fake, strict=True):
        for r, f in zip(real_maps, fake_maps, strict=True):
            r = jax.lax.stop_gradient(r).astype(jnp.float32)
            each.append(jnp.mean(jnp.abs(r - f.astype(jnp.float32))) / (jnp.mean(jnp.abs(r)) + 1e-6))
    return sum(each[1:], each[0]) / len(each)


def gradient_balance(
    reconstruction: Float[Array, "B ..."], adversarial: Float[Array, "B ..."], config: LossConfig
) -> Float[Array, ""]:
    """The factor on the adversarial terms, from both sides' gradients at the waveform (see `LossConfig.balance`)."""
    if config.balance == "fixed":
        return jnp.ones(())
    norms = (jnp.sqrt(jnp.sum(jnp.square(g))) for g in (reconstruction, adversarial))
    return config.adversarial_share * next(norms) / (next(norms) + 1e-12)


def weighted(terms: Mapping[str, Array], config: LossConfig) -> Float[Array, ""]:
    """Sum of the terms times the config's weights of the same names."""
    return sum((getattr(config, name) * value for name, value in terms.items()), jnp.zeros(()))


def si_sdr(audio: Float[Array, "B T"], decoded: Float[Array, "B T"]) -> Float[Array, "B"]:
    """Scale-invariant signal-to-distortion ratio in dB, means removed (Le Roux et al., "SDR - half-baked or well
    done?", 2019, eq. 5)."""
    audio, decoded = (x - jnp.mean(x, axis=1, keepdims=True) for x in (audio, decoded))
    scale = jnp.sum(audio * decoded, 1) / (jnp.sum(jnp.square(audio), 1) + 1e-9)
    target = scale[:, None] * audio
    error = jnp.sum(jnp.square(target - decoded), 1)
    return 10.0 * jnp.log10((jnp.sum(jnp.square(target), 1) + 1e-9) / (error + 1e-9))


def log_mel_distance(audio: Float[Array, "B T"], decoded: Float[Array, "B T"], sample_rate: int) -> Float[Array, "B"]:
    """Mean absolute difference of the log-mel spectrograms (window 1024, hop 256, 80 bands), nats."""
    target, estimate = (dsp.log_mel(x, sample_rate, 1024, 256, 80) for x in (audio, decoded))
    return jnp.mean(jnp.abs(target - estimate), axis=(1, 2))


def low_pass(audio: Float[Array, "B T"], sample_rate: int, cutoff: float = 2000.0) -> Float[Array, "B T"]:
    """Brick-wall low-pass: the baseline that a log-mel distance is read against."""
    spectrum = jnp.fft.rfft(audio)
    keep = jnp.fft.rfftfreq(audio.shape[1], 1.0 / sample_rate) < cutoff
    return jnp.fft.irfft(jnp.where(keep[None], spectrum, jnp.zeros_like(spectrum)), n=audio.shape[1])
