"""The frame-rate decoder: ConvNeXt blocks and an inverse-STFT head (Siuzdak, "Vocos", 2023, section 3).

Nothing runs at the waveform's rate but the inverse FFT, which makes it an order of magnitude cheaper than HiFi-GAN.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from melody_jax import dsp
from melody_jax.autoencoder.blocks import ConvNeXtStack
from melody_jax.autoencoder.config import AutoencoderConfig
from melody_jax.geometry import Geometry
from melody_jax.nn.dense import Dense
from melody_jax.nn.norm import LayerNorm
from melody_jax.shapes import Array, Float


class ISTFTDecoder(nn.Module):
    """Latents to waveform at frame rate.

    Two heads share the last hidden state: magnitude and phase for the full bandwidth (any level and texture is one
    exponential away), and below `linear_hz` real and imaginary parts, which are linear in the hidden state and so learn
    the waveform of the strong low partials within few steps. Their spectra are added.
    """

    config: AutoencoderConfig
    geometry: Geometry

    @nn.compact
    def __call__(self, latents: Float[Array, "B L D"]) -> Float[Array, "B T"]:
        shape, hop = self.config.istft, self.geometry.hop // self.config.istft.upsample
        types = {"dtype": self.config.dtype, "param_dtype": self.config.param_dtype}
        run = {"unroll": self.config.unroll, "remat": self.config.remat, **types}
        stack = functools.partial(ConvNeXtStack, kernel=shape.kernel, **run)
        x = Dense(shape.channels, ("input", "embed"), name="in", **types)(latents)
        x = stack(shape.layers, shape.hidden, name="blocks")(x)
        if shape.upsample > 1:
            x = Dense(shape.upsample * shape.fine_channels, ("embed", "conv_out"), name="upsample", **types)(x)
            x = x.reshape(x.shape[0], -1, shape.fine_channels)
            x = stack(shape.fine_layers, shape.fine_hidden, name="fine_blocks")(x)
        x = LayerNorm(param_dtype=self.config.param_dtype, name="norm")(x)
        window = shape.overlap * hop
        bins = window // 2 + 1
        # Spectra span orders of magnitude: everything from here on is float32.
        polar = Dense(2 * bins, ("embed", "conv_out"), name="polar", **types)(x).astype(jnp.float32)
        log_magnitude, phase = jnp.split(polar, 2, axis=-1)
        magnitude = jnp.exp(jnp.minimum(log_magnitude - 2.0, 6.0))  # starts quiet; e^6 is above any full-scale sine
        real, imaginary = magnitude * jnp.cos(phase), magnitude * jnp.sin(phase)
        low = min(bins, int(shape.linear_hz / self.geometry.sample_rate * window))
        if low:
            init = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
            linear = Dense(2 * low, ("embed", "conv_out"), kernel_init=init, name="linear", **types)(x)
            above = ((0, 0), (0, 0), (0, bins - low))
            parts = jnp.split(linear.astype(jnp.float32), 2, axis=-1)
            real, imaginary = real + jnp.pad(parts[0], above), imaginary + jnp.pad(parts[1], above)
        return synthesise(real, imaginary, hop)


def synthesise(real: Float[Array, "B F bins"], imaginary: Float[Array, "B F bins"], hop: int) -> Float[Array, "B T"]:
    """Windowed inverse FFT of every frame and overlap-add to exactly F * hop samples.

    Frame f is centred on samples [f * hop, (f + 1) * hop): "same" padding as in Vocos, so that T = L * hop without a
    frame too many. With a Hann window applied here only, frames sum to unity gain at any overlap >= 2.
    """
    window = 2 * (real.shape[-1] - 1)
    frames = jnp.fft.irfft(jax.lax.complex(real, imaginary), n=window)
    faded = frames * jnp.asarray(_synthesis_window(window, hop))[None, None]
    trim = (window - hop) // 2
    return dsp.overlap_add(faded, hop)[:, trim : trim + real.shape[1] * hop]


@functools.lru_cache
def _synthesis_window(window: int, hop: int) -> np.ndarray:
    """Hann, scaled so that shifted copies sum to one and a spectrum of unit entries has a fair level."""
    return (dsp.hann(window) * (2 * hop / window) * np.sqrt(window)).astype(np.float32)
