"""The HiFi-GAN generator (Kong et al., "HiFi-GAN", 2020, section 2.2; Figure 1) as the decoder of the latents."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from melody_jax.autoencoder.blocks import MultiReceptiveField, ResidualBlock
from melody_jax.autoencoder.config import AutoencoderConfig
from melody_jax.geometry import Geometry
from melody_jax.nn.conv import Conv1d, ConvTranspose1d
from melody_jax.shapes import Array, Float


class HiFiGANDecoder(nn.Module):
    """Latents to waveform: a convolution, residual blocks at the latent rate (none in the published generator), then
    for every stride a transposed convolution that halves the width, and a multi-receptive-field fusion."""

    config: AutoencoderConfig
    geometry: Geometry

    @nn.compact
    def __call__(self, latents: Float[Array, "B L D"]) -> Float[Array, "B T"]:
        shape = self.config.hifigan
        types = {"dtype": self.config.dtype, "param_dtype": self.config.param_dtype}
        lrelu = functools.partial(jax.nn.leaky_relu, negative_slope=shape.slope)
        trunk = nn.remat(ResidualBlock) if self.config.remat == "full" else ResidualBlock
        x = Conv1d(shape.channels, 7, name="pre", **types)(latents)
        for i, kernel in enumerate(shape.trunk_kernels):
            x = trunk(kernel, shape.dilations, shape.slope, name=f"trunk_{i}", **types)(x)
        for i, (stride, kernel) in enumerate(zip(shape.strides, shape.upsample_kernels, strict=True)):
            width = shape.channels // 2 ** (i + 1)
            x = ConvTranspose1d(width, kernel, stride, name=f"upsample_{i}", **types)(lrelu(x))
            fusion = functools.partial(MultiReceptiveField, slope=shape.slope, remat=self.config.remat, **types)
            x = fusion(shape.kernels, shape.dilations, name=f"fusion_{i}")(x)
        x = jax.nn.leaky_relu(x)  # the reference code's slope here is the default 0.01, not the config's
        x = Conv1d(1, 7, name="post", **types)(x)
        return jnp.tanh(x[..., 0].astype(jnp.float32))
