"""The discriminators: multi-period on the waveform (Kong et al., "HiFi-GAN", 2020, section 2.3) and multi-resolution on
spectrograms (Jang et al., "UnivNet", 2021; with real and imaginary parts as in Défossez et al., "Encodec", 2022).

Departure: plain convolutions, no weight normalisation; Adam's per-weight steps and gradient clipping stand in for it.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from melody_jax import dsp
from melody_jax.autoencoder.config import DiscriminatorConfig
from melody_jax.nn.conv import Conv1d
from melody_jax.parallel.activations import constrain
from melody_jax.shapes import Array, Float


@flax.struct.dataclass
class Judgement:
    """What the discriminators say of B waveforms.

    Attributes:
      scores: one map of scores per discriminator, first axis B, float32; high means real.
      features: the hidden maps of each discriminator, first axis B.
    """

    scores: tuple[Any, ...]
    features: tuple[tuple[Any, ...], ...]

    def split(self) -> tuple["Judgement", "Judgement"]:
        """The judgements of the first and second half of the batch."""
        first = jax.tree.map(lambda x: x[: x.shape[0] // 2], self)
        return first, jax.tree.map(lambda x: x[x.shape[0] // 2 :], self)


class Discriminators(nn.Module):
    """All discriminators of the config, each with its own parameters."""

    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, audio: Float[Array, "B T"]) -> Judgement:
        players: list[nn.Module] = [
            PeriodDiscriminator(period, self.config, name=f"period_{period}") for period in self.config.periods
        ]
        players += [SpectrogramDiscriminator(fft, self.config, name=f"spectrogram_{fft}") for fft in self.config.ffts]
        verdicts = [player(audio) for player in players]
        return Judgement(tuple(score for score, _ in verdicts), tuple(maps for _, maps in verdicts))


class PeriodDiscriminator(nn.Module):
    """Convolutions along time over every `period`-th sample; the weights are shared between the phases."""

    period: int
    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, audio: Float[Array, "B T"]) -> tuple[Array, tuple[Array, ...]]:
        shape = self.config
        batch = audio.shape[0]
        types = {"dtype": shape.dtype, "param_dtype": shape.param_dtype}
        padded = jnp.pad(audio, ((0, 0), (0, -audio.shape[1] % self.period)), mode="reflect")
        phases = padded.reshape(batch, -1, self.period).swapaxes(1, 2)  # [B, period, T / period]
        x = phases.reshape(batch * self.period, -1, 1)
        widths = (*shape.period_channels, shape.period_channels[-1])
        strides = (*[shape.period_stride] * len(shape.period_channels), 1)
        maps = []
        for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            x = Conv1d(width, shape.period_kernel, stride, name=f"conv_{i}", **types)(x)
            x = jax.nn.leaky_relu(x, shape.slope)
            maps.append(x.reshape(batch, self.period, *x.shape[1:]))
        score = Conv1d(1, 3, name="score", **types)(x)
        return score.astype(jnp.float32).reshape(batch, -1), tuple(maps)


class SpectrogramDiscriminator(nn.Module):
    """Convolutions over time and frequency of one complex spectrogram; strides and growth along frequency only."""

    fft: int
    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, audio: Float[Array, "B T"]) -> tuple[Array, tuple[Array, ...]]:
        shape = self.config
        spectrum = dsp.stft(audio, self.fft, self.fft // 4)
        unit = 1.0 / float(np.sqrt(np.sum(dsp.hann(self.fft) ** 2)))  # white noise keeps its level
        x = unit * jnp.stack([jnp.real(spectrum), jnp.imag(spectrum)], axis=-1)
        maps = []
        for i, (width, stride) in enumerate(zip(shape.spectral_channels, shape.spectral_strides, strict=True)):
            dilation = 1 if i == 0 else 2 ** (i - 1)  # along time, grows the receptive field as in Encodec: 1, 1, 2, 4
            # real and imaginary part are two channels that no mesh can split
            inputs = "input" if i == 0 else "conv_in"
            x = Conv2d(width, (3, 9), stride, dilation, shape.dtype, shape.param_dtype, inputs, name=f"conv_{i}")(x)
            x = jax.nn.leaky_relu(x, shape.slope)
            maps.append(x)
        score = Conv2d(1, (3, 3), 1, 1, shape.dtype, shape.param_dtype, name="score")(x)
        return score.astype(jnp.float32).reshape(audio.shape[0], -1), tuple(maps)


class Conv2d(nn.Module):
    """Convolution over [B, time, frequency, channels], "SAME" padding, strided along frequency, dilated along time."""

    features: int
    kernel: Sequence[int]
    stride: int
    dilation: int
    dtype: str
    param_dtype: str
    inputs: str = "conv_in"  # logical axis of the input channels

    @nn.compact
    def __call__(self, x: Float[Array, "B F bins I"]) -> Float[Array, "B F bands O"]:
        init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("time", None, self.inputs, "conv_out"))
        kernel = self.param("kernel", init, (*self.kernel, x.shape[-1], self.features), jnp.dtype(self.param_dtype))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("conv_out",))
        bias = self.param("bias", zeros, (self.features,), jnp.dtype(self.param_dtype))
        x, kernel = _by_stride(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        around = self.dilation * (self.kernel[0] - 1)
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            [(around // 2, around - around // 2), (0, 0)],
            rhs_dilation=(self.dilation, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return constrain(y + bias.astype(y.dtype)[None, None, None], "conv_out")


def _by_stride(
    x: Float[Array, "B F bins I"], kernel: Float[Array, "time taps I O"], stride: int
) -> tuple[Float[Array, "B F bands channels"], Float[Array, "time groups channels O"]]:
    """Input and kernel of the convolution of stride 1 that equals one of `stride` along frequency with "SAME" padding.

    `stride` neighbouring bins become channels of one band. The gradient of a strided convolution is one of a dilated input,
    for which XLA has no fast program on a CPU: with stride 2 this is 2.7 times as fast.
    """
    taps, bins = kernel.shape[1], x.shape[2]
    bands, groups = -(-bins // stride), -(-taps // stride)
    before = max((bands - 1) * stride + taps - bins, 0) // 2
    width = (bands + groups - 1) * stride
    x = jnp.pad(x, ((0, 0), (0, 0), (before, width - bins - before), (0, 0)))
    kernel = jnp.pad(kernel, ((0, 0), (0, groups * stride - taps), (0, 0), (0, 0)))
    return (
        x.reshape(*x.shape[:2], width // stride, stride * x.shape[3]),
        kernel.reshape(kernel.shape[0], groups, -1, kernel.shape[3]),
    )
