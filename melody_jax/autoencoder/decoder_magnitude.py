"""The decoder without phases: from latents to the magnitudes of a spectrum, and from these to music.

Latents without phases say how strong every frequency is at every time. Phases that fit such magnitudes are found: first by
letting the partials run on from frame to frame at their own frequencies, then by iteration (Griffin and Lim, 1984).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from melody_jax import dsp
from melody_jax.autoencoder.blocks import ConvNeXtStack
from melody_jax.autoencoder.config import AutoencoderConfig, MagnitudeConfig
from melody_jax.geometry import Geometry
from melody_jax.nn.dense import Dense
from melody_jax.nn.norm import LayerNorm
from melody_jax.parallel import activations
from melody_jax.shapes import Array, Bool, Float

FLOOR = 1e-2  # of magnitudes, before the logarithm; a full-scale sine is at window / 4


class MagnitudeDecoder(nn.Module):
    """Latents to log(magnitude + FLOOR) of Hann windows, F = L * frames, as of `dsp.centred_stft`; float32."""

    config: AutoencoderConfig
    geometry: Geometry

    @nn.compact
    def __call__(self, latents: Float[Array, "B L D"]) -> Float[Array, "B F bins"]:
        shape = self.config.magnitude
        types = {"dtype": self.config.dtype, "param_dtype": self.config.param_dtype}
        x = Dense(shape.channels, ("input", "embed"), name="in", **types)(latents)
        stack = {"unroll": self.config.unroll, "remat": self.config.remat, **types}
        x = ConvNeXtStack(shape.layers, shape.hidden, shape.kernel, name="blocks", **stack)(x)
        x = LayerNorm(param_dtype=self.config.param_dtype, name="norm")(x)
        x = Dense(shape.frames * shape.window // 2, ("embed", "conv_out"), name="out", **types)(x).astype(jnp.float32)
        x = x.reshape(x.shape[0], -1, shape.window // 2)
        return jnp.pad(x, ((0, 0), (0, 0), (0, 1)), constant_values=math.log(FLOOR))  # nothing at half the sample rate


def log_magnitude(audio: Float[Array, "B T"], window: int, hop: int) -> Float[Array, "B F bins"]:
    """What the decoder is to say of this audio, `hop` samples a spectrum."""
    return jnp.log(jnp.abs(dsp.centred_stft(audio, window, hop)) + FLOOR)


def magnitude(predicted: Float[Array, "*b F bins"]) -> Float[Array, "*b F bins"]:
    """The inverse of the logarithm above; never negative."""
    return jnp.maximum(jnp.exp(predicted) - FLOOR, 0.0)


def waveform(
    predicted: Float[Array, "B F bins"],
    shape: MagnitudeConfig,
    hop: int,
    known: Float[Array, "B T"] | None = None,
    fixed: Bool[Array, "B T"] | None = None,
) -> Float[Array, "B T"]:
    """Music of predicted log magnitudes, T = F * hop, `hop` samples a spectrum.

    Samples of `known` that are `fixed` stay what they are, and the music goes on from them.
    """

    def alone(predicted: Array) -> Array:
        wanted = magnitude(predicted)
        return dsp.griffin_lim(wanted, dsp.running_phases(wanted, hop), hop, shape.iterations)

    def joined(inputs: tuple[Array, Array, Array]) -> Array:
        predicted, known, fixed = inputs
        wanted = magnitude(predicted)
        phases = jnp.angle(dsp.centred_stft(jnp.where(fixed, known, 0.0), shape.window, hop))
        pad = (shape.window - hop) // 2
        whole = dsp.frame(jnp.pad(fixed.astype(jnp.float32), pad, constant_values=1.0), shape.window, hop)
        running = dsp.running_phases(wanted, hop, phases, jnp.min(whole, axis=-1) > 0)
        return dsp.griffin_lim(wanted, running, hop, shape.iterations, known=known, fixed=fixed)

    # row by row: a spectrum is eight waveforms
    split = (("batch", None, None), ("batch", None), ("batch", None))
    if known is None or fixed is None:
        return activations.per_chip(lambda rows: jax.lax.map(alone, rows), split[:1], ("batch", None))(predicted)
    rows = activations.per_chip(lambda *rows: jax.lax.map(joined, rows), split, ("batch", None))
    return rows(predicted, known, fixed)
