"""Stems: waveform to frames at the semantic token rate, N = T // token_samples exactly."""

import jax.numpy as jnp
from flax import linen as nn

from melody_jax.dsp import frame, log_frequency, log_mel
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.nn.conv import Conv1d
from melody_jax.nn.dense import Dense
from melody_jax.nn.feedforward import ACTIVATIONS
from melody_jax.nn.norm import LayerNorm
from melody_jax.semantic.config import MelStemConfig, SpectrumConfig, WaveStemConfig
from melody_jax.shapes import Array, Float


def whole_frames(audio: Float[Array, "B T"], geometry: Geometry) -> Float[Array, "B padded"]:
    """Cuts what does not fill a token at the end.

    Raises:
      UserError: the audio is shorter than one token.
    """
    frames = audio.shape[1] // geometry.token_samples
    if frames == 0:
        raise UserError(f"audio of {audio.shape[1]} samples is shorter than one token of {geometry.token_samples}")
    return audio[:, : frames * geometry.token_samples]


def pad_for(audio: Float[Array, "B T"], config: WaveStemConfig, geometry: Geometry) -> Float[Array, "B padded"]:
    """Zeros on both sides, so that the wave stem makes one centred frame of every token's samples.

    Raises:
      UserError: the strides do not multiply to a token, or skip samples.
    """
    if config.stride != geometry.token_samples:
        raise UserError(f"wave stem: strides multiply to {config.stride} samples, a token has {geometry.token_samples}")
    total = config.receptive_field - config.stride
    if total < 0:
        raise UserError(f"wave stem: kernels are so short that {-total} of {config.stride} samples are never seen")
    return jnp.pad(audio, ((0, 0), (total // 2, total - total // 2)))


class GroupNorm(nn.Module):
    """Each channel of each example to mean 0, variance 1 over time: wav2vec 2.0's group norm, one group per channel."""

    eps: float = 1e-5
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B T H"]) -> Float[Array, "B T H"]:
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("norm",))
        scale = self.param("scale", ones, (x.shape[-1],), jnp.dtype(self.param_dtype)).astype(jnp.float32)
        bias = self.param("bias", zeros, (x.shape[-1],), jnp.dtype(self.param_dtype)).astype(jnp.float32)
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, axis=1, keepdims=True)
        wide = wide / jnp.sqrt(jnp.mean(jnp.square(wide), axis=1, keepdims=True) + self.eps)
        return (wide * scale[None, None] + bias[None, None]).astype(x.dtype)


class WaveStem(nn.Module):
    """The convolutions of wav2vec 2.0, without padding: 1 + (T - receptive_field) // stride frames."""

    config: WaveStemConfig
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, audio: Float[Array, "B T"]) -> Float[Array, "B N H"]:
        cfg, x = self.config, audio
        types = {"use_bias": cfg.use_bias, "dtype": self.dtype, "param_dtype": self.param_dtype}
        init = nn.initializers.he_normal()
        for i, (kernel, stride) in enumerate(zip(cfg.kernels, cfg.strides, strict=True)):
            if i == 0:  # of one channel, which no mesh can split: a linear map of each window, kernel [taps, channels]
                windows = frame(x, kernel, stride)
                x = Dense(cfg.channels, ("time", "conv_out"), kernel_init=init, name="conv_0", **types)(windows)
            else:
                x = Conv1d(cfg.channels, kernel, stride, padding="VALID", kernel_init=init, name=f"conv_{i}", **types)(
                    x
                )
            if cfg.norm == "layer":
                both = {"activation": cfg.activation, "fused": cfg.fused_norm}
                x = LayerNorm(param_dtype=self.param_dtype, name=f"norm_{i}", **both)(x)
                continue
            if i == 0:
                x = GroupNorm(param_dtype=self.param_dtype, name=f"norm_{i}")(x)
            x = ACTIVATIONS[cfg.activation](x)
        return x


class MelStem(nn.Module):
    """log-mel, then a convolution over the spectral frames of each token, LayerNorm and GELU."""

    config: MelStemConfig
    geometry: Geometry
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, audio: Float[Array, "B T"]) -> Float[Array, "B N H"]:
        cfg = self.config
        hop = token_hop(cfg.frames, self.geometry)
        # dsp.log_mel centres frame j at j * hop; half a hop earlier, a token's frames lie symmetrically about its middle.
        audio = jnp.pad(audio, ((0, 0), (0, hop)))[:, hop // 2 :][:, : audio.shape[1]]
        mel = log_mel(audio, self.geometry.sample_rate, cfg.fft, hop, cfg.mels)
        mel = (mel[:, : audio.shape[1] // hop] - cfg.mean) / cfg.std
        return _of_tokens(mel, cfg, self.dtype, self.param_dtype)


class SpectrumStem(nn.Module):
    """The log-frequency spectrum, then a convolution over the spectral frames of each token, LayerNorm and GELU."""

    config: SpectrumConfig
    geometry: Geometry
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, audio: Float[Array, "B T"]) -> Float[Array, "B N H"]:
        cfg = self.config
        spectrum = spectrum_of(audio, cfg, self.geometry.sample_rate, token_hop(cfg.frames, self.geometry))
        return _of_tokens(1.0 + spectrum / (0.5 * cfg.depth), cfg, self.dtype, self.param_dtype)


def spectrum_of(
    audio: Float[Array, "B T"], config: SpectrumConfig, sample_rate: int, hop: int
) -> Float[Array, "B F bands"]:
    """The log-frequency spectrum of every hop: `dsp.log_frequency` with the config's numbers."""
    shape = (config.bands, config.lowest_hz, config.per_octave, config.depth)
    return log_frequency(audio, sample_rate, config.fft, hop, *shape)


def token_hop(frames: int, geometry: Geometry) -> int:
    """Samples from one spectral frame to the next, `frames` to a token.

    Raises:
      UserError: they do not divide a token.
    """
    hop, odd = divmod(geometry.token_samples, frames)
    if odd:
        raise UserError(f"semantic stem: {frames} frames do not divide a token of {geometry.token_samples} samples")
    return hop


def _of_tokens(
    spectra: Float[Array, "B F I"], config: MelStemConfig | SpectrumConfig, dtype: str, param_dtype: str
) -> Float[Array, "B N H"]:
    """Inside a compact `__call__`: a strided convolution to one frame a token, LayerNorm, GELU."""
    side = (config.kernel - config.frames) // 2
    types = {"dtype": dtype, "param_dtype": param_dtype}
    x = Conv1d(config.channels, config.kernel, config.frames, padding=side, name="conv", **types)(spectra)
    x = LayerNorm(param_dtype=param_dtype, name="norm")(x)
    return ACTIVATIONS["gelu"](x)
