"""The variational autoencoder: posterior, reparameterisation, and the scaled latents that the diffusion model sees."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from melody_jax.autoencoder.config import AutoencoderConfig
from melody_jax.autoencoder.decoder_hifigan import HiFiGANDecoder
from melody_jax.autoencoder.decoder_istft import ISTFTDecoder
from melody_jax.autoencoder.decoder_magnitude import MagnitudeDecoder
from melody_jax.autoencoder.encoder import ConvolutionalEncoder, FramewiseEncoder
from melody_jax.geometry import Geometry
from melody_jax.shapes import Array, Float, Shaped

# Every encoder maps audio [B, T] to [B, L, 2 D], every decoder latents [B, L, D] to audio [B, T], T = L * hop.
ENCODERS = {"convolutional": ConvolutionalEncoder, "framewise": FramewiseEncoder}
DECODERS = {"hifigan": HiFiGANDecoder, "istft": ISTFTDecoder}


@flax.struct.dataclass
class Posterior:
    """Diagonal Gaussian q(z | x): mean and log variance, both [B, L, D], float32."""

    mean: Float[Array, "B L D"]
    logvar: Float[Array, "B L D"]


@flax.struct.dataclass
class AutoencoderOutput:
    """What one pass gives: the reconstruction [B, T], the posterior, the latents [B, L, D] that were decoded, and the
    magnitude decoder's log magnitudes [B, L, bins], where there is one."""

    audio: Float[Array, "B T"]
    posterior: Posterior
    latents: Float[Array, "B L D"]
    log_magnitude: Float[Array, "B L bins"] | None = None


class Autoencoder(nn.Module):
    """24 kHz audio to latents and back.

    `latent_scale` brings latents into [-1, 1]; it is a parameter so that it travels with the weights, but it is not
    optimised: the last act of training measures it (`stages/autoencoder.py`, `finish`).
    """

    config: AutoencoderConfig
    geometry: Geometry

    def setup(self):
        self.config.check(self.geometry)
        self.encoder = ENCODERS[self.config.encoder](self.config, self.geometry)
        self.decoder = DECODERS[self.config.decoder](self.config, self.geometry)
        if self.config.magnitude.layers:
            self.magnitude_decoder = MagnitudeDecoder(self.config)
        one = nn.with_logical_partitioning(nn.initializers.ones, ())
        self.latent_scale = self.param("latent_scale", one, (), jnp.float32)

    def __call__(self, audio: Float[Array, "B T"], key: Shaped[Array, "..."]) -> AutoencoderOutput:
        """One training pass: z = mean + exp(logvar / 2) * noise (Kingma and Welling, 2014), decoded."""
        posterior = self.encode(audio)
        noise = jax.random.normal(key, posterior.mean.shape, jnp.float32)
        latents = posterior.mean + jnp.exp(0.5 * posterior.logvar) * noise
        magnitude = self.magnitude_decoder(latents) if self.config.magnitude.layers else None
        return AutoencoderOutput(self.decode(latents), posterior, latents, magnitude)

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

    def decode(self, latents: Float[Array, "B L D"]) -> Float[Array, "B T"]:
        """Unscaled latents to audio, T = L * hop, float32."""
        return self.decoder(latents).astype(jnp.float32)

    def log_magnitude(self, latents: Float[Array, "B L D"]) -> Float[Array, "B L bins"]:
        """Unscaled latents to log magnitudes of their spectrum; only with a magnitude decoder."""
        return self.magnitude_decoder(latents)

    def to_latents(self, audio: Float[Array, "B T"]) -> Float[Array, "B L D"]:
        """The posterior mean, scaled and clipped to [-1, 1]: the diffusion model's data."""
        return jnp.clip(self.encode(audio).mean * self.latent_scale, -1.0, 1.0)

    def from_latents(self, latents: Float[Array, "B L D"]) -> Float[Array, "B T"]:
        """The inverse of `to_latents`, but for the clipping and the coding loss."""
        return self.decode(latents / self.latent_scale)

    def log_magnitude_from_latents(self, latents: Float[Array, "B L D"]) -> Float[Array, "B L bins"]:
        """`log_magnitude` of scaled latents."""
        return self.log_magnitude(latents / self.latent_scale)
