"""The programs of sampling, one per arrow of the system's figure: functions of weights and inputs, to be compiled."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from melody_jax.autoencoder.config import AutoencoderConfig
from melody_jax.autoencoder.decoder_magnitude import retrieve_phases
from melody_jax.autoencoder.network import Autoencoder
from melody_jax.codes import rvq
from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.config import from_dict
from melody_jax.dpd import angles, sampler
from melody_jax.dpd.config import DPDConfig
from melody_jax.dpd.network import DPD
from melody_jax.geometry import Geometry
from melody_jax.lm import decode
from melody_jax.lm.config import LMConfig
from melody_jax.lm.continuation import continue_codes
from melody_jax.lm.network import SemanticLM
from melody_jax.mulan.config import MuLanConfig
from melody_jax.mulan.network import MuLan
from melody_jax.parallel import activations
from melody_jax.shapes import Array


class Programs:
    """The networks of a system, without weights.

    Args:
      config: of the parts "autoencoder", "mulan", "lm" and "dpd", as their files hold them or as dataclasses.
      geometry: of all parts.
    """

    def __init__(self, config: Mapping[str, Any], geometry: Geometry):
        self.geometry = geometry
        self.vocabulary = Vocabulary.from_geometry(geometry)
        self.mulan = MuLan(_read(MuLanConfig, config["mulan"]), geometry)
        self.lm = SemanticLM(_read(LMConfig, config["lm"]), self.vocabulary)
        self.dpd = DPD(_read(DPDConfig, config["dpd"]), geometry)
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
        return self.mulan.apply({"params": params}, text_tokens, method="embed_text")  # pyright: ignore[reportReturnType]

    def embed_music(self, params: Any, audio: Array) -> Array:
        """MuLan embeddings [B, E] of clips [B, T]."""
        return self.mulan.apply({"params": params}, audio, method="embed_music")  # pyright: ignore[reportReturnType]

    def mulan_codes(self, params: Any, embeddings: Array) -> Array:
        """Codes [B, Q] of MuLan embeddings."""
        return rvq.encode(params["rvq"], embeddings)

    def continue_tokens(
        self, params: Any, condition: Array, earlier: Array, keys: Array, length: int, sampling: decode.Sampling
    ) -> Array:
        """`length` semantic codes [B, length] after the condition [B, 1 + Q] and the earlier codes [B, N]."""
        return continue_codes(self.lm, params, condition, earlier, length, keys, sampling)

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
        noise: float,
    ) -> Array:
        """Latents [B, L, D] of tokens [B, N], those that `mask` [B or 1, L] marks being known [B, L, D] already."""

        def network(*arguments: Array) -> Array:
            return self.dpd.apply({"params": params}, *arguments)  # pyright: ignore[reportReturnType]

        start = jax.vmap(lambda key: jax.random.normal(key, known.shape[1:], jnp.float32))(keys)
        sizes, per_token = angles.schedule(schedule, steps), self.geometry.frames_per_token
        return sampler.sample_tokens(
            network, self.dpd.config, tokens, per_token, noise * start, sizes, scale, known, mask, clip=clip or None
        )

    def decode_latents(self, params: Any, latents: Array) -> Array:
        """Waveforms [B, T] of latents [B, L, D]."""

        return self.autoencoder.apply({"params": params}, latents, method="from_latents")  # pyright: ignore[reportReturnType]

    def decode_magnitude(self, params: Any, latents: Array) -> Array:
        """Log magnitudes [B, L, bins] of latents [B, L, D]."""

        return self.autoencoder.apply({"params": params}, latents, method="log_magnitude_from_latents")  # pyright: ignore[reportReturnType]

    def retrieve_phases(self, log_magnitude: Array, start: Array, iterations: int) -> Array:
        """Waveforms [B, T] with these magnitudes, iterated from the waveforms `start`."""

        def row(pair: tuple[Array, Array]) -> Array:
            return retrieve_phases(pair[0][None], pair[1][None], iterations)[0]

        def rows(*arrays: Array) -> Array:
            return jax.lax.map(row, arrays)  # row by row: a spectrum is eight times its waveform

        split = activations.per_chip(rows, (("batch", None, None), ("batch", None)), ("batch", None))
        return split(log_magnitude, start)


def _read(kind: type, config: Any) -> Any:
    return config if isinstance(config, kind) else from_dict(kind, config)
