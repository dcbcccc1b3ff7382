"""Waveform to the parameters of the posterior: [B, T] -> [B, L, 2 D]."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from melody_jax import dsp
from melody_jax.autoencoder.blocks import ConvNeXtStack, MultiReceptiveField, ResidualBlock
from melody_jax.autoencoder.config import AutoencoderConfig
from melody_jax.geometry import Geometry
from melody_jax.nn.conv import Conv1d
from melody_jax.nn.dense import Dense
from melody_jax.nn.norm import LayerNorm
from melody_jax.shapes import Array, Float


class ConvolutionalEncoder(nn.Module):
    """HiFi-GAN's generator mirrored: for every stride a strided convolution that doubles the width, and a
    multi-receptive-field fusion; then residual blocks at the latent rate."""

    config: AutoencoderConfig
    geometry: Geometry

    @nn.compact
    def __call__(self, audio: Float[Array, "B T"]) -> Float[Array, "B L O"]:
        shape = self.config.convolutional
        types = {"dtype": self.config.dtype, "param_dtype": self.config.param_dtype}
        stages = len(shape.strides)
        x = Conv1d(shape.channels // 2**stages, 7, name="pre", **types)(audio[..., None])
        for i, (stride, kernel) in enumerate(zip(shape.strides, shape.downsample_kernels, strict=True)):
            width = shape.channels // 2 ** (stages - 1 - i)
            x = Conv1d(width, kernel, stride, name=f"downsample_{i}", **types)(jax.nn.leaky_relu(x, 0.1))
            fusion = MultiReceptiveField(
                shape.kernels, shape.dilations, remat=self.config.remat, name=f"fusion_{i}", **types
            )
            x = fusion(x)
        trunk = nn.remat(ResidualBlock) if self.config.remat == "full" else ResidualBlock
        for i, kernel in enumerate(shape.trunk_kernels):
            x = trunk(kernel, shape.dilations, name=f"trunk_{i}", **types)(x)
        return Conv1d(2 * self.geometry.latent_channels, 7, name="post", **types)(jax.nn.leaky_relu(x, 0.1))


class FramewiseEncoder(nn.Module):
    """One window's spectrum per latent frame, ConvNeXt blocks, and a linear map.

    The spectrum enters twice: power-compressed real and imaginary parts below `linear_hz`, which carry the phase of the
    strong low partials, and log-mel magnitudes over the full bandwidth.
    """

    config: AutoencoderConfig
    geometry: Geometry

    @nn.compact
    def __call__(self, audio: Float[Array, "B T"]) -> Float[Array, "B L O"]:
        shape = self.config.framewise
        types = {"dtype": self.config.dtype, "param_dtype": self.config.param_dtype}
        x = spectral_features(audio, self.geometry, shape.window, shape.linear_hz, shape.mels)
        x = Dense(shape.channels, ("input", "embed"), name="in", **types)(x)
        stack = {"unroll": self.config.unroll, "remat": self.config.remat, **types}
        x = ConvNeXtStack(shape.layers, shape.hidden, shape.kernel, name="blocks", **stack)(x)
        x = LayerNorm(param_dtype=self.config.param_dtype, name="norm")(x)
        return Dense(2 * self.geometry.latent_channels, ("embed", "conv_out"), name="out", **types)(x)


class EnvelopeEncoder(nn.Module):
    """A perceptron on the log-mel spectra of each latent frame."""

    config: AutoencoderConfig
    geometry: Geometry

    @nn.compact
    def __call__(self, audio: Float[Array, "B T"]) -> Float[Array, "B L O"]:
        shape, geometry = self.config.envelope, self.geometry
        types = {"dtype": self.config.dtype, "param_dtype": self.config.param_dtype}
        magnitude = jnp.abs(dsp.centred_stft(audio, shape.window, geometry.hop // shape.frames))
        mel = magnitude @ jnp.asarray(dsp.mel_filterbank(geometry.sample_rate, shape.window, shape.mels))
        x = (jnp.log(mel + 1e-4) / 4.0).reshape(audio.shape[0], -1, shape.frames * shape.mels)
        x = jax.nn.gelu(Dense(shape.hidden, ("input", "mlp"), name="in", **types)(x))
        return Dense(2 * geometry.latent_channels, ("mlp", "embed"), name="out", **types)(x)


def spectral_features(
    audio: Float[Array, "B T"], geometry: Geometry, window: int, linear_hz: float, mels: int
) -> Float[Array, "B L O"]:
    """Features of windows centred on every hop, float32, order one: compressed complex low band, full log-mel band."""
    spectrum = dsp.centred_stft(audio, window, geometry.hop)
    real, imaginary = jnp.real(spectrum), jnp.imag(spectrum)
    power = jnp.square(real) + jnp.square(imaginary)
    mel = jnp.sqrt(power) @ jnp.asarray(dsp.mel_filterbank(geometry.sample_rate, window, mels))
    low = int(linear_hz / geometry.sample_rate * window)
    # |X|^0.4 keeps the phase and shrinks the range from 60 dB to 24 dB, so that no partial drowns the others.
    compression = jnp.power(power[..., :low] + 1e-4, -0.3)
    parts = [real[..., :low] * compression, imaginary[..., :low] * compression]
    return jnp.concatenate([*parts, jnp.log(mel + 1e-4) / 4.0], axis=-1)
