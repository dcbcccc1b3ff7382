"""Networks small enough for a test, one of each kind."""

from melody_jax.autoencoder.config import (
    AutoencoderConfig,
    ConvolutionalEncoderConfig,
    DiscriminatorConfig,
    EnvelopeEncoderConfig,
    FramewiseEncoderConfig,
    HiFiGANConfig,
    ISTFTConfig,
    MagnitudeConfig,
)
from melody_jax.geometry import Geometry

GEOMETRY = Geometry(hop=96, latent_channels=4)
FRAMEWISE = FramewiseEncoderConfig(channels=16, hidden=32, layers=2, kernel=3, window=192, mels=16)
ENVELOPE = EnvelopeEncoderConfig(frames=2, window=192, mels=16, hidden=32)
CONVOLUTIONAL = ConvolutionalEncoderConfig(
    channels=32, strides=(8, 12), downsample_kernels=(9, 24), kernels=(3,), dilations=(1,), trunk_kernels=(3,)
)
ISTFT = ISTFTConfig(channels=16, hidden=32, layers=2, kernel=3)
FINE = ISTFTConfig(channels=16, hidden=32, layers=1, upsample=2, fine_channels=8, fine_hidden=16, fine_layers=2)
HIFIGAN = HiFiGANConfig(
    channels=32, strides=(12, 8), upsample_kernels=(24, 9), kernels=(3, 5), dilations=(1,), trunk_kernels=(3,)
)
MAGNITUDE = MagnitudeConfig(channels=16, hidden=32, layers=1, kernel=3, frames=2, window=192, iterations=4)
CONFIGS = {
    "framewise-istft": AutoencoderConfig("framewise", "istft", framewise=FRAMEWISE, istft=ISTFT),
    "framewise-istft-fine": AutoencoderConfig(
        "framewise", "istft", framewise=FRAMEWISE, istft=FINE, remat="full", dtype="bfloat16"
    ),
    "envelope-magnitude": AutoencoderConfig("envelope", "magnitude", envelope=ENVELOPE, magnitude=MAGNITUDE),
    "convolutional-hifigan": AutoencoderConfig(convolutional=CONVOLUTIONAL, hifigan=HIFIGAN),
}
DISCRIMINATORS = DiscriminatorConfig(
    periods=(3,), period_channels=(4, 8), ffts=(64,), spectral_channels=(4, 4), spectral_strides=(2, 2)
)
