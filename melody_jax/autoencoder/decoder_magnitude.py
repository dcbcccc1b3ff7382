"""From envelopes to the magnitudes of a spectrum, and from these to music.

A diffusion model that has trained for minutes knows the envelopes of music, not its phases, and a decoder that hears random
phases makes noise. What envelopes say without any phase is how strong every frequency is at every time; phases that fit such
magnitudes are found by iteration (Griffin and Lim, 1984), from those of the decoder's own waveform.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from melody_jax import dsp
from melody_jax.autoencoder.blocks import ConvNeXtStack
from melody_jax.autoencoder.config import AutoencoderConfig
from melody_jax.nn.dense import Dense
from melody_jax.nn.norm import LayerNorm
from melody_jax.shapes import Array, Float

FLOOR = 1e-2  # of magnitudes, before the logarithm; a full-scale sine is at window / 4


class MagnitudeDecoder(nn.Module):
    """Latents to log(magnitude + FLOOR) of one Hann window per frame, as of `dsp.centred_stft`; float32."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, latents: Float[Array, "B L D"]) -> Float[Array, "B L bins"]:
        shape = self.config.magnitude
        types = {"dtype": self.config.dtype, "param_dtype": self.config.param_dtype}
        x = latents[..., : self.config.envelope_channels or latents.shape[-1]]
        x = Dense(shape.channels, ("input", "embed"), name="in", **types)(x)
        stack = {"unroll": self.config.unroll, "remat": self.config.remat, **types}
        x = ConvNeXtStack(shape.layers, shape.hidden, shape.kernel, name="blocks", **stack)(x)
        x = LayerNorm(param_dtype=self.config.param_dtype, name="norm")(x)
        x = Dense(shape.window // 2, ("embed", "conv_out"), name="out", **types)(x).astype(jnp.float32)
        return jnp.pad(x, ((0, 0), (0, 0), (0, 1)), constant_values=math.log(FLOOR))  # nothing at half the sample rate


def log_magnitude(audio: Float[Array, "B T"], window: int, hop: int) -> Float[Array, "B L bins"]:
    """What the decoder is to say of this audio."""
    return jnp.log(jnp.abs(dsp.centred_stft(audio, window, hop)) + FLOOR)


def magnitude(predicted: Float[Array, "B L bins"]) -> Float[Array, "B L bins"]:
    """The inverse of the logarithm above; never negative."""
    return jnp.maximum(jnp.exp(predicted) - FLOOR, 0.0)


def retrieve_phases(
    predicted: Float[Array, "B L bins"], start: Float[Array, "B T"], iterations: int
) -> Float[Array, "B T"]:
    """The waveform of predicted log magnitudes after so many Griffin-Lim iterations from the phases of `start`."""
    return dsp.griffin_lim(magnitude(predicted), start, iterations)
