"""The shapes of the audio VAE-GAN. The defaults are the paper's size: encoder 40 M, decoder 60.1 M parameters."""

import dataclasses
import math
from typing import Literal

from melody_jax.errors import UserError
from melody_jax.geometry import Geometry


@dataclasses.dataclass(frozen=True)
class ConvolutionalEncoderConfig:
    """The waveform encoder: HiFi-GAN's generator mirrored, strided convolutions instead of transposed ones.

    Attributes:
      channels: width at the latent rate; it halves with every stride towards the waveform (32, 64, 128, 256).
      strides: downsampling factors from the waveform on; their product must be the geometry's hop.
      downsample_kernels: taps of the strided convolutions.
      kernels: kernel sizes of the parallel residual blocks after every stride.
      dilations: dilations inside each residual block.
      trunk_kernels: kernel sizes of successive residual blocks at the latent rate, where a parameter costs least.
    """

    channels: int = 256
    strides: tuple[int, ...] = (2, 3, 4, 4)
    downsample_kernels: tuple[int, ...] = (5, 7, 9, 9)
    kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    trunk_kernels: tuple[int, ...] = (9,) * 8

    def __post_init__(self):
        _check_kernels("the encoder", self.strides, self.downsample_kernels, "downsample_kernels")


def _check_kernels(what: str, strides: tuple[int, ...], kernels: tuple[int, ...], name: str) -> None:
    if len(strides) != len(kernels):
        raise UserError(f"autoencoder: {what} has {len(strides)} strides but {len(kernels)} {name}")
    if any(kernel < stride for kernel, stride in zip(kernels, strides, strict=True)):
        raise UserError(f"autoencoder: {name} {kernels} of {what} must not be smaller than its strides {strides}")


@dataclasses.dataclass(frozen=True)
class FramewiseEncoderConfig:
    """The frame-rate encoder: the spectrum of one window a latent frame, then ConvNeXt blocks.

    Attributes:
      channels: width.
      hidden: inner width of a block.
      layers: number of blocks.
      kernel: taps of the depthwise convolutions, in latent frames.
      window: samples of the analysis window, the hop plus an even number.
      linear_hz: bandwidth that is seen with its phase: real and imaginary parts, power-compressed.
      mels: mel bands of the log-magnitude, which is seen over the full bandwidth.
    """

    channels: int = 256
    hidden: int = 1024
    layers: int = 4
    kernel: int = 7
    window: int = 1920
    linear_hz: float = 4000.0
    mels: int = 96


@dataclasses.dataclass(frozen=True)
class EnvelopeEncoderConfig:
    """The encoder without phases: each latent frame is made of its own log-mel spectra alone.

    Phases turn many times between two frames and are white noise to a diffusion model; what they leave changes as slowly as
    the music does, and each latent frame depends on nothing but its own few hundredths of a second.

    Attributes:
      frames: spectra per latent frame; divides the hop.
      window: samples of the analysis window, hop / frames plus an even number.
      mels: mel bands.
      hidden: inner width of the perceptron.
    """

    frames: int = 1
    window: int = 1920
    mels: int = 144
    hidden: int = 512


@dataclasses.dataclass(frozen=True)
class HiFiGANConfig:
    """The generator of Kong et al., "HiFi-GAN" (2020), with residual blocks at the latent rate where wanted.

    Attributes:
      channels: width at the latent rate; it halves with every upsampling (768, 384, 192, 96).
      strides: upsampling factors from the latents on; their product must be the geometry's hop.
      upsample_kernels: taps of the transposed convolutions.
      kernels: kernel sizes of the parallel residual blocks after every upsampling (multi-receptive-field fusion).
      dilations: dilations inside each residual block.
      trunk_kernels: kernel sizes of successive residual blocks at the latent rate; () is the published generator.
      slope: of the leaky ReLUs.
    """

    channels: int = 1536
    strides: tuple[int, ...] = (4, 4, 3, 2)
    upsample_kernels: tuple[int, ...] = (9, 9, 5, 7)
    kernels: tuple[int, ...] = (3, 7)
    dilations: tuple[int, ...] = (1, 3, 5)
    trunk_kernels: tuple[int, ...] = ()
    slope: float = 0.1

    def __post_init__(self):
        _check_kernels("hifigan", self.strides, self.upsample_kernels, "upsample_kernels")


@dataclasses.dataclass(frozen=True)
class ISTFTConfig:
    """The frame-rate decoder: ConvNeXt blocks and an inverse-STFT head (Siuzdak, "Vocos", 2023).

    Attributes:
      channels: width.
      hidden: inner width of a block.
      layers: number of blocks at the latent rate.
      kernel: taps of the depthwise convolutions, in frames.
      upsample: spectral frames per latent frame; the head's hop is the geometry's hop divided by it.
      fine_channels: width of the blocks at the spectral frame rate (only with upsample > 1).
      fine_hidden: their inner width.
      fine_layers: their number.
      overlap: window of the head in hops.
      linear_hz: below this frequency real and imaginary parts are predicted besides magnitude and phase, and added.
    """

    channels: int = 256
    hidden: int = 1024
    layers: int = 6
    kernel: int = 7
    upsample: int = 1
    fine_channels: int = 128
    fine_hidden: int = 384
    fine_layers: int = 2
    overlap: int = 4
    linear_hz: float = 4000.0


@dataclasses.dataclass(frozen=True)
class MagnitudeConfig:
    """The decoder of magnitudes: ConvNeXt blocks from latents to the magnitudes of a short-time Fourier transform, for
    which Griffin-Lim iterations find phases.

    Attributes:
      channels: width.
      hidden: inner width of a block.
      layers: number of blocks.
      kernel: taps of the depthwise convolutions, in latent frames.
      frames: spectra per latent frame; divides the hop.
      window: samples of the Hann window, an even multiple of hop / frames.
      iterations: of Griffin-Lim.
    """

    channels: int = 256
    hidden: int = 768
    layers: int = 4
    kernel: int = 7
    frames: int = 1
    window: int = 1920
    iterations: int = 32


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Multi-period (HiFi-GAN) and multi-resolution spectrogram (UnivNet, Encodec) discriminators.

    Attributes:
      periods: the waveform is folded to [T / period, period] for each of them; () leaves them out.
      period_channels: widths of the strided layers of a period discriminator.
      period_kernel: taps of these layers along time.
      period_stride: their stride.
      ffts: window sizes of the spectrogram discriminators, hop = window / 4; () leaves them out.
      spectral_channels: widths of the layers of a spectrogram discriminator.
      spectral_strides: their strides along frequency.
      slope: of the leaky ReLUs.
      dtype: compute dtype.
      param_dtype: dtype of the parameters.
    """

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: tuple[int, ...] = (32, 128, 512, 1024)
    period_kernel: int = 5
    period_stride: int = 3
    ffts: tuple[int, ...] = (512, 1024, 2048)
    spectral_channels: tuple[int, ...] = (32, 32, 32, 32)
    spectral_strides: tuple[int, ...] = (1, 2, 2, 2)
    slope: float = 0.1
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if len(self.spectral_channels) != len(self.spectral_strides):
            raise UserError(
                f"discriminators: {len(self.spectral_channels)} spectral_channels but {len(self.spectral_strides)} "
                "spectral_strides"
            )


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The variational autoencoder.

    What the publication states: hop 96 and D = 16 (in the geometry); rates, kernels and output channels of every stride
    of both networks; encoder 40 M and decoder 60.1 M parameters. What it leaves free and is chosen here to reach these
    counts: the kernels and dilations of HiFi-GAN's residual blocks, and eight more of them at the encoder's end
    (docs/choices.md).

    Attributes:
      encoder: which encoder is built.
      decoder: which decoder is built.
      convolutional, framewise, envelope: shapes of the encoders; only the chosen one is read.
      hifigan, istft, magnitude: shapes of the decoders; only the chosen one is read.
      min_logvar, max_logvar: bounds of the posterior's log variance.
      unroll: ConvNeXt blocks per iteration of the scan over them (all run fastest on a CPU, 1 compiles fastest).
      remat: recompute residual blocks in the backward pass ("full") or not ("none").
      dtype: compute dtype of the networks; posterior, spectra and losses are float32.
      param_dtype: dtype of the parameters.
    """

    encoder: Literal["convolutional", "framewise", "envelope"] = "convolutional"
    decoder: Literal["hifigan", "istft", "magnitude"] = "hifigan"
    convolutional: ConvolutionalEncoderConfig = ConvolutionalEncoderConfig()
    framewise: FramewiseEncoderConfig = FramewiseEncoderConfig()
    envelope: EnvelopeEncoderConfig = EnvelopeEncoderConfig()
    hifigan: HiFiGANConfig = HiFiGANConfig()
    istft: ISTFTConfig = ISTFTConfig()
    magnitude: MagnitudeConfig = MagnitudeConfig()
    min_logvar: float = -14.0
    max_logvar: float = 4.0
    unroll: int = 1
    remat: Literal["none", "full"] = "none"
    dtype: str = "float32"
    param_dtype: str = "float32"

    def check(self, geometry: Geometry) -> None:
        """Raises UserError where rates or channels do not fit the geometry."""
        hop = geometry.hop
        for name, kind, shape in (
            ("encoder", self.encoder, self.envelope),
            ("decoder", self.decoder, self.magnitude),
        ):
            if kind not in ("envelope", "magnitude"):
                continue
            step, odd = divmod(hop, shape.frames)
            if odd:
                raise UserError(f"autoencoder: the {name}'s {shape.frames} frames do not divide hop {hop}")
            if (shape.window - step) % 2 or shape.window < step:
                raise UserError(
                    f"autoencoder: the {name}'s window {shape.window} must be {step} samples + an even number"
                )
        if self.encoder == "convolutional" and math.prod(self.convolutional.strides) != hop:
            raise UserError(
                f"autoencoder: the encoder's strides {self.convolutional.strides} do not multiply to hop {hop}"
            )
        if self.encoder == "framewise" and ((self.framewise.window - hop) % 2 or self.framewise.window < hop):
            raise UserError(
                f"autoencoder: the encoder's window {self.framewise.window} must be hop {hop} + an even number"
            )
        step = hop // self.magnitude.frames
        if self.decoder == "magnitude" and self.magnitude.window % (2 * step):
            raise UserError(
                f"autoencoder: the decoder's window {self.magnitude.window} must be an even multiple of {step} samples"
            )
        if self.decoder == "hifigan" and math.prod(self.hifigan.strides) != hop:
            raise UserError(f"autoencoder: the decoder's strides {self.hifigan.strides} do not multiply to hop {hop}")
        if self.decoder == "istft" and hop % self.istft.upsample:
            raise UserError(f"autoencoder: upsample {self.istft.upsample} does not divide hop {hop}")
