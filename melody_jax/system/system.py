"""The networks of a system, and what they compute: pure functions of weights and inputs, one for each arrow of the figure."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from melody_jax.autoencoder.config import AutoencoderConfig
from melody_jax.autoencoder.decoder_magnitude import waveform
from melody_jax.autoencoder.network import Autoencoder
from melody_jax.codes import rvq
from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.config import from_dict
from melody_jax.dpd import DPD, Preconditioned, angles, model_of, sampler
from melody_jax.dpd.config import DPDConfig
from melody_jax.dpd.denoiser import Denoiser, bind, bounded, guide
from melody_jax.geometry import Geometry
from melody_jax.lm.config import LMConfig
from melody_jax.lm.continuation import continue_codes
from melody_jax.lm.decode import Sampling
from melody_jax.lm.loss import clip_losses, sequence_losses
from melody_jax.lm.network import SemanticLM
from melody_jax.lm.redraw import redraw
from melody_jax.mulan.config import MuLanConfig
from melody_jax.mulan.network import MuLan
from melody_jax.nn.measured import variables
from melody_jax.semantic.config import SemanticConfig
from melody_jax.semantic.network import SemanticEncoder
from melody_jax.shapes import Array

ConfigT = TypeVar("ConfigT")
Weights = Any
"""The tree of the part that an arrow runs, as `Part.params` has it."""
AllWeights = Mapping[str, Weights]
"""Name of a part -> its weights, where an arrow runs several."""


class System:
    """The networks, without weights. Keyword-only arguments of an arrow are fixed when it is compiled.

    Args:
      config: of the parts, as their files hold them or as dataclasses; an arrow needs only those that it runs.
      geometry: of all parts.
    """

    def __init__(self, config: Mapping[str, Any], geometry: Geometry):
        self.geometry = geometry
        self._config = config

    def _read(self, name: str, kind: type[ConfigT]) -> ConfigT:
        config = self._config[name]
        return config if isinstance(config, kind) else from_dict(kind, config)

    @functools.cached_property
    def mulan(self) -> MuLan:
        """Text and music to one space."""
        return MuLan(self._read("mulan", MuLanConfig), self.geometry)

    @functools.cached_property
    def semantic(self) -> SemanticEncoder:
        """Music to features."""
        return SemanticEncoder(self._read("semantic", SemanticConfig), self.geometry)

    @functools.cached_property
    def autoencoder(self) -> Autoencoder:
        """Music to latents and back."""
        return Autoencoder(self._read("autoencoder", AutoencoderConfig), self.geometry)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The language model's ids."""
        return Vocabulary.of(self.geometry, self._read("lm", LMConfig).controls)

    @functools.cached_property
    def lm(self) -> SemanticLM:
        """MuLan codes to semantic codes."""
        return SemanticLM(self._read("lm", LMConfig), self.vocabulary)

    @functools.cached_property
    def dpd(self) -> DPD | Preconditioned:
        """Semantic codes to latents, a step at a time."""
        return model_of(self._read("dpd", DPDConfig), self.geometry)

    @property
    def window(self) -> int:
        """Moments in one sequence of the language model."""
        return min(self.lm.config.window or self.geometry.clip_tokens, self.geometry.clip_tokens)

    @property
    def decodes_magnitudes(self) -> bool:
        """Whether the decoder predicts magnitudes, for which phases must be found."""
        return self.autoencoder.config.decoder == "magnitude"

    def kept_dtype(self, name: str, path: tuple[Any, ...]) -> jnp.dtype:
        """The dtype in which a weight of the part `name` is kept on the device (`path`: its keys): float32.

        Language and diffusion model run many times on the same weights. What they multiply in their compute dtype they keep
        in it: the products are the same ones, from half the memory.
        """
        multiplied = path[-1].key in ("kernel", "embedding")
        if multiplied and name in ("lm", "dpd"):
            return jnp.dtype(getattr(self, name).config.dtype)
        return jnp.dtype(jnp.float32)

    def kept(self, name: str, weights: Weights) -> Weights:
        """Weights of the part `name`, floating-point ones in the dtype of `kept_dtype`."""

        def kept(path: tuple[Any, ...], leaf: Any) -> Any:
            return leaf.astype(self.kept_dtype(name, path)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        return jax.tree_util.tree_map_with_path(kept, weights)

    # Text and music to codes and latents.

    def embed_text(self, mulan: Weights, text_tokens: Array) -> Array:
        """MuLan embeddings [B, E] of WordPiece ids [B, W], unit norm."""
        return self.mulan.apply(variables(mulan), text_tokens, method="embed_text")  # pyright: ignore[reportReturnType]

    def embed_music(self, mulan: Weights, audio: Array) -> Array:
        """MuLan embeddings [B, E] of clips [B, T], unit norm."""
        return self.mulan.apply(variables(mulan), audio, method="embed_music")  # pyright: ignore[reportReturnType]

    def mulan_codes(self, codes: Weights, embeddings: Array) -> Array:
        """Codes [B, Q] of MuLan embeddings."""
        return rvq.encode(codes["rvq"], embeddings)

    def text_codes(self, weights: AllWeights, text_tokens: Array) -> Array:
        """MuLan codes [B, Q] of WordPiece ids [B, W]."""
        return self.mulan_codes(weights["codes"], self.embed_text(weights["mulan"], text_tokens))

    def represent(self, weights: AllWeights, audio: Array) -> dict[str, Array]:
        """Of clips [B, T]: mulan [B, Q], semantic [B, N R], latents [B, L, D] scaled to [-1, 1]."""
        features = self.semantic.apply(variables(weights["semantic"]), audio, method="features")
        latents = self.autoencoder.apply(variables(weights["autoencoder"]), audio, method="to_latents")
        codes = weights["codes"]
        mulan = rvq.encode(codes["rvq"], self.embed_music(weights["mulan"], audio))
        levels = jnp.arange(self.geometry.semantic_levels) * self.geometry.semantic_codes
        semantic = rvq.encode(codes["kmeans"], features) + levels[None, None]  # pyright: ignore[reportArgumentType]
        semantic = semantic.reshape(audio.shape[0], -1)
        return {"mulan": mulan, "semantic": semantic, "latents": latents}  # pyright: ignore[reportReturnType]

    # Randomness.

    def row_keys(self, seeds: Array, candidates: Array) -> Array:
        """The keys [B, 2] that all randomness of candidates [B] of pieces comes from; seeds [B], uint32."""
        keys = jax.vmap(jax.random.PRNGKey)(seeds)
        first = (candidates == 0)[:, None]
        return jnp.where(first, keys, jax.vmap(jax.random.fold_in)(keys, 1 + candidates))

    def fold_in(self, keys: Array, use: Array | int) -> Array:
        """Keys [B, 2] for another use, a whole number."""
        return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, use)

    # Codes to codes to latents.

    def condition(self, codes: Array, controls: Array | None = None, *, levels: int = 0) -> Array:
        """What the language model starts from [B, prefix]: MuLan codes [B, Q], of which only the first `levels` count (0 for all),
        and the codes of the controls [B, controls]."""
        condition = self.vocabulary.condition(codes, controls=controls)
        place = jnp.arange(condition.shape[1])[None, :]
        unread = (place > (levels or codes.shape[1])) & (place <= codes.shape[1])
        return jnp.where(unread, self.vocabulary.unknown, condition)

    def later(self, condition: Array, moments: Array | int) -> Array:
        """The condition [B, prefix] of a sequence that begins so many moments later."""
        return self.vocabulary.later(condition, moments)

    def write_tokens(
        self,
        lm: Weights,
        condition: Array,
        earlier: Array,
        keys: Array,
        negative: Array | None = None,
        *,
        length: int,
        sampling: Sampling,
    ) -> Array:
        """`length` semantic codes [B, length] after the condition [B, prefix] and the earlier codes [B, W]."""
        return continue_codes(self.lm, lm, condition, earlier, length, keys, sampling, negative)

    def redraw(
        self, lm: Weights, condition: Array, semantic: Array, replaced: Array, keys: Array, *, sampling: Sampling
    ) -> Array:
        """The semantic codes [B, N R] of clips, some drawn anew after the condition [B, prefix]; see `lm.redraw.redraw`."""
        levels = self.geometry.semantic_levels
        return redraw(self.lm, lm, condition, semantic, replaced, self.window, levels, keys, sampling)

    def token_losses(
        self, lm: Weights, mulan: Array, semantic: Array, keep: Array | None = None, controls: Array | None = None
    ) -> Array:
        """Cross entropy [B] of clips, nats per semantic token; see `lm.loss.clip_losses`."""
        return clip_losses(self.lm, lm, mulan, semantic, self.window, self.geometry.semantic_levels, keep, controls)

    def sequence_losses(self, lm: Weights, mulan: Array, semantic: Array) -> Array:
        """Cross entropy [B, N] of the tokens of one sequence, nats; see `lm.loss.sequence_losses`."""
        return sequence_losses(self.lm, lm, mulan, semantic)

    def denoiser(self, dpd: Weights, tokens: Array, condition: Array | None = None) -> Denoiser:
        """The diffusion network with its weights, under tokens [B, N R] and, if it reads one, a condition [B, prefix]."""
        return bind(functools.partial(self.dpd.apply, variables(dpd)), tokens, condition)

    def diffuse(
        self,
        dpd: Weights,
        tokens: Array,
        keys: Array,
        known: Array,
        mask: Array,
        condition: Array | None = None,
        *,
        steps: int,
        schedule: str,
        scale: float,
        clip: float,
        strength: float = 1.0,
        noise: float = 1.0,
    ) -> Array:
        """Latents [B, L, D] of tokens [B, N R], those that `mask` [B or 1, L] marks being known [B, L, D] already.

        `condition` [B, prefix] is the language model's, for a network that reads one (`DPDConfig.prompt`).

        With a strength below 1 diffusion starts from `known`, at that share of the way to pure noise. `noise` is the deviation
        of what it starts from: below 1 it keeps nearer to what the tokens say (the temperature of Glow, Kingma and Dhariwal,
        2018).
        """
        std = self.dpd.config.data_std
        start = noise * jax.vmap(lambda key: jax.random.normal(key, known.shape[1:], jnp.float32))(keys)
        sizes = strength * angles.schedule(schedule, steps)
        if strength < 1:
            begin = jnp.full((1, 1), strength * jnp.pi / 2, jnp.float32)
            start = angles.diffuse(known / std, start, begin)
        denoise = guide(self.denoiser(dpd, tokens, condition), scale)
        return sampler.sample(bounded(denoise, clip / std) if clip else denoise, start, sizes, known, mask, std)

    # Latents to music.

    def decode(self, autoencoder: Weights, latents: Array) -> Array:
        """Waveforms [B, T] of latents [B, L, D]."""
        weights = variables(autoencoder)
        return self.autoencoder.apply(weights, latents, method="from_latents")  # pyright: ignore[reportReturnType]

    def decode_magnitudes(self, autoencoder: Weights, latents: Array) -> Array:
        """Log magnitudes [B, F, bins] of latents [B, L, D], by a decoder of such."""

        def decoded(module: Any, latents: Array) -> Array:
            return module.decoded(latents / module.latent_scale)

        return self.autoencoder.apply(variables(autoencoder), latents, method=decoded)  # pyright: ignore[reportReturnType]

    def find_phases(self, magnitudes: Array, known: Array, fixed: Array) -> Array:
        """Waveforms [B, T] of log magnitudes [B, F, bins]; samples of `known` [B, T] that are `fixed` [B, T] stay."""
        shape = self.autoencoder.config.magnitude
        return waveform(magnitudes, shape, self.geometry.hop // shape.frames, known, fixed)

    def in_pieces(self, decode: Callable[[Array], Array], latents: Array, each: int) -> Array:
        """What `decode` makes of latents [B, L, D], `each` values of a frame: of long music in overlapping pieces of two
        training clips, so that memory does not grow."""
        piece, frames = 2 * self.geometry.clip_frames, latents.shape[1]
        if frames <= piece:
            return decode(latents)
        margin = piece // 4
        pieces = []
        for begin in range(0, frames, piece - 2 * margin):
            end = min(begin + piece - 2 * margin, frames)
            at = min(max(begin - margin, 0), frames - piece)
            decoded = decode(latents[:, at : at + piece])
            pieces.append(decoded[:, (begin - at) * each : (end - at) * each])
        return jnp.concatenate(pieces, axis=1)

    def reconstruct(self, autoencoder: Weights, audio: Array) -> Array:
        """Music [B, T] through the autoencoder and back, scaling and clipping of the latents included."""
        weights = variables(autoencoder)
        latents = self.autoencoder.apply(weights, audio, method="to_latents")
        return self.autoencoder.apply(weights, latents, method="from_latents")  # pyright: ignore[reportReturnType]
