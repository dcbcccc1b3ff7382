"""The variational autoencoder: posterior, reparameterisation, and the scaled latents that the diffusion model sees."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from melody_jax.autoencoder.config import AutoencoderConfig
from melody_jax.autoencoder.decoder_hifigan import HiFiGANDecoder
from melody_jax.autoencoder.decoder_istft import ISTFTDecoder
from melody_jax.autoencoder.decoder_magnitude import MagnitudeDecoder, waveform
from melody_jax.autoencoder.encoder import ConvolutionalEncoder, EnvelopeEncoder, FramewiseEncoder
from melody_jax.geometry import Geometry
from melody_jax.nn.measured import measured
from melody_jax.shapes import Array, Float, Shaped

# Every encoder maps audio [B, T] to [B, L, 2 D].
ENCODERS = {"convolutional": ConvolutionalEncoder, "framewise": FramewiseEncoder, "envelope": EnvelopeEncoder}
# Every decoder maps latents [B, L, D] to audio [B, T], T = L * hop, or to log magnitudes (see `Autoencoder.decoded`).
DECODERS = {"hifigan": HiFiGANDecoder, "istft": ISTFTDecoder, "magnitude": MagnitudeDecoder}


@flax.struct.dataclass
class Posterior:
    """Diagonal Gaussian q(z | x): mean and log variance, both [B, L, D], float32."""

    mean: Float[Array, "B L D"]
    logvar: Float[Array, "B L D"]


@flax.struct.dataclass
class AutoencoderOutput:
    """What one pass gives: what the decoder said (see `Autoencoder.decoded`), the posterior, and the latents [B, L, D] that
    were decoded."""

    decoded: Float[Array, "B ..."]
    posterior: Posterior
    latents: Float[Array, "B L D"]


class Autoencoder(nn.Module):
    """24 kHz audio to latents and back.

    `latent_scale` brings latents into [-1, 1]; the last act of training measures it (`stages/autoencoder.py`, `finish`).
    """

    config: AutoencoderConfig
    geometry: Geometry

    def setup(self):
        self.config.check(self.geometry)
        self.encoder = ENCODERS[self.config.encoder](self.config, self.geometry)
        self.decoder = DECODERS[self.config.decoder](self.config, self.geometry)
        self.latent_scale = measured(self, "latent_scale", nn.initializers.ones, (), ())

    def __call__(self, audio: Float[Array, "B T"], key: Shaped[Array, "..."]) -> AutoencoderOutput:
        """One training pass: z = mean + exp(logvar / 2) * noise (Kingma and Welling, 2014), decoded."""
        posterior = self.encode(audio)
        noise = jax.random.normal(key, posterior.mean.shape, jnp.float32)
        latents = posterior.mean + jnp.exp(0.5 * posterior.logvar) * noise
        return AutoencoderOutput(self.decoded(latents), posterior, latents)

    def encode(self, audio: Float[Array, "B T"]) -> Posterior:
        """The posterior of whole frames: T must be a multiple of the hop; L = T / hop.

        Raises:
          ValueError: T is not a multiple of the hop.
        """
        if audio.shape[1] % self.geometry.hop:
            raise ValueError(f"encode: {audio.shape[1]} samples are not a multiple of the hop {self.geometry.hop}")
        mean, logvar = jnp.split(self.encoder(audio).astype(jnp.float32), 2, axis=-1)
        # Starting with little noise (e^-2 of the prior's deviation) the decoder has something to decode from step one.
        return Posterior(mean, jnp.clip(logvar - 4.0, self.config.min_logvar, self.config.max_logvar))

    def decoded(self, latents: Float[Array, "B L D"]) -> Float[Array, "B ..."]:
        """What the decoder says of unscaled latents, float32: audio [B, T], or the log magnitudes [B, F, bins] of a decoder
        "magnitude", which its loss compares with those of the music."""
        return self.decoder(latents).astype(jnp.float32)

    def decode(self, latents: Float[Array, "B L D"]) -> Float[Array, "B T"]:
        """Unscaled latents to audio, T = L * hop, float32."""
        decoded = self.decoded(latents)
        if self.config.decoder != "magnitude":
            return decoded
        shape = self.config.magnitude
        return waveform(decoded, shape, self.geometry.hop // shape.frames)

    def to_latents(self, audio: Float[Array, "B T"]) -> Float[Array, "B L D"]:
        """The posterior mean, scaled and clipped to [-1, 1]: the diffusion model's data."""
        return jnp.clip(self.encode(audio).mean * self.latent_scale, -1.0, 1.0)

    def from_latents(self, latents: Float[Array, "B L D"]) -> Float[Array, "B T"]:
        """The inverse of `to_latents`, but for the clipping and the coding loss."""
        return self.decode(latents / self.latent_scale)
