"""The programs of sampling, one per arrow of the system's figure: functions of weights and inputs, to be compiled."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from melody_jax.autoencoder.config import AutoencoderConfig
from melody_jax.autoencoder.decoder_magnitude import waveform
from melody_jax.autoencoder.network import Autoencoder
from melody_jax.codes import rvq
from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.config import from_dict
from melody_jax.dpd import angles, model_of, sampler
from melody_jax.dpd.config import DPDConfig
from melody_jax.dpd.denoiser import bind, bounded, guide
from melody_jax.geometry import Geometry
from melody_jax.lm import decode
from melody_jax.lm.config import LMConfig
from melody_jax.lm.continuation import continue_codes
from melody_jax.lm.network import SemanticLM
from melody_jax.mulan.config import MuLanConfig
from melody_jax.mulan.network import MuLan
from melody_jax.nn.measured import variables
from melody_jax.shapes import Array


class Programs:
    """The networks of a system, without weights.

    Args:
      config: of the parts "autoencoder", "mulan", "lm" and "dpd", as their files hold them or as dataclasses.
      geometry: of all parts.
    """

    def __init__(self, config: Mapping[str, Any], geometry: Geometry):
        self.geometry = geometry
        self.mulan = MuLan(_read(MuLanConfig, config["mulan"]), geometry)
        lm = _read(LMConfig, config["lm"])
        self.vocabulary = Vocabulary.of(geometry, lm.controls)
        self.lm = SemanticLM(lm, self.vocabulary)
        self.dpd = model_of(_read(DPDConfig, config["dpd"]), geometry)
        self.autoencoder = Autoencoder(_read(AutoencoderConfig, config["autoencoder"]), geometry)

    def kept_dtype(self, name: str, path: tuple[Any, ...]) -> jnp.dtype:
        """What a weight of the part `name`, `path` being its keys, is kept in on the device: float32.

        Language and diffusion model run many times on the same weights. What they multiply in their compute dtype they keep
        in it: the products are the same ones, from half the memory.
        """
        multiplied = path[-1].key in ("kernel", "embedding")
        if multiplied and name in ("lm", "dpd"):
            return jnp.dtype(getattr(self, name).config.dtype)
        return jnp.dtype(jnp.float32)

    def embed_text(self, params: Any, text_tokens: Array) -> Array:
        """MuLan embeddings [B, E] of WordPiece ids [B, W]."""
        return self.mulan.apply(variables(params), text_tokens, method="embed_text")  # pyright: ignore[reportReturnType]

    def embed_music(self, params: Any, audio: Array) -> Array:
        """MuLan embeddings [B, E] of clips [B, T]."""
        return self.mulan.apply(variables(params), audio, method="embed_music")  # pyright: ignore[reportReturnType]

    def mulan_codes(self, params: Any, embeddings: Array) -> Array:
        """Codes [B, Q] of MuLan embeddings."""
        return rvq.encode(params["rvq"], embeddings)

    def continue_tokens(
        self,
        params: Any,
        condition: Array,
        earlier: Array,
        keys: Array,
        length: int,
        sampling: decode.Sampling,
        negative: Array | None = None,
    ) -> Array:
        """`length` semantic codes [B, length] after the condition [B, P] and the earlier codes [B, W]."""
        return continue_codes(self.lm, params, condition, earlier, length, keys, sampling, negative)

    def diffuse_window(
        self,
        params: Any,
        tokens: Array,
        keys: Array,
        known: Array,
        mask: Array,
        steps: int,
        schedule: str,
        scale: float,
        clip: float,
        strength: float = 1.0,
    ) -> Array:
        """Latents [B, L, D] of tokens [B, N R], those that `mask` [B or 1, L] marks being known [B, L, D] already.

        With a strength below 1 diffusion starts from `known`, at that share of the way to pure noise.
        """
        std = self.dpd.config.data_std
        start = jax.vmap(lambda key: jax.random.normal(key, known.shape[1:], jnp.float32))(keys)
        sizes = strength * angles.schedule(schedule, steps)
        if strength < 1:
            begin = jnp.full((1, 1), strength * jnp.pi / 2, jnp.float32)
            start = angles.diffuse(known / std, start, begin)
        denoise = guide(bind(functools.partial(self.dpd.apply, variables(params)), tokens), scale)
        return sampler.sample(bounded(denoise, clip / std) if clip else denoise, start, sizes, known, mask, std)

    def decode_latents(self, params: Any, latents: Array) -> Array:
        """Waveforms [B, T] of latents [B, L, D]."""

        return self.autoencoder.apply(variables(params), latents, method="from_latents")  # pyright: ignore[reportReturnType]

    @property
    def decodes_magnitudes(self) -> bool:
        """Whether the decoder says magnitudes, for which phases must be found."""
        return self.autoencoder.config.decoder == "magnitude"

    def decode_magnitudes(self, params: Any, latents: Array) -> Array:
        """Log magnitudes [B, F, bins] of latents [B, L, D], by a decoder of such."""

        def decoded(module: Any, latents: Array) -> Array:
            return module.decoded(latents / module.latent_scale)

        return self.autoencoder.apply(variables(params), latents, method=decoded)  # pyright: ignore[reportReturnType]

    def find_phases(self, magnitudes: Array, known: Array, fixed: Array) -> Array:
        """Waveforms [B, T] of log magnitudes [B, F, bins]; samples of `known` [B, T] that are `fixed` [B, T] stay."""
        shape = self.autoencoder.config.magnitude
        return waveform(magnitudes, shape, self.geometry.hop // shape.frames, known, fixed)


def _read(kind: type, config: Any) -> Any:
    return config if isinstance(config, kind) else from_dict(kind, config)
