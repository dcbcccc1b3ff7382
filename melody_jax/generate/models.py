"""The models of a bundle, ready to run: one method per arrow of the system's figure, compiled once per shape."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.bundle.bundle import Bundle
from melody_jax.config import from_dict
from melody_jax.generate.host import Host
from melody_jax.generate.programs import Programs
from melody_jax.generate.settings import Settings
from melody_jax.lm import decode
from melody_jax.mulan import minilm
from melody_jax.mulan.config import PretrainedText
from melody_jax.mulan.tokenizer import TextTokenizer
from melody_jax.shapes import Array, Bool, Float, Int, UInt32


class Models:
    """MuLan, residual VQ, language model, diffusion and decoder of one bundle.

    Each model computes in the dtype of its own config; weights are on the chips as `Programs.kept_dtype` says, whatever the
    files hold. Every method keeps the rows of what it gets on the chips where they are.

    Raises:
      UserError: the package with the text tower's weights is missing or another one.
    """

    def __init__(self, bundle: Bundle, host: Host):
        config = {name: part.config for name, part in bundle.parts.items()}
        self.geometry = bundle.geometry
        self.programs = Programs(config, bundle.geometry)
        self.mulan_config, self.lm_config = self.programs.mulan.config, self.programs.lm.config
        self.dpd_config = self.programs.dpd.config
        params = {name: bundle.parts[name].params for name in ("autoencoder", "mulan", "codes", "lm", "dpd")}
        if not self.mulan_config.train_text_tower:
            expected = from_dict(PretrainedText, bundle.references["mulan/text"])
            text = minilm.load(expected, self.mulan_config.text)
            params["mulan"] = {**params["mulan"], "text": text}
        self._host = host
        self.params: dict[str, Any] = {name: self._on_chips(name, tree) for name, tree in params.items()}
        self.tokenizer = TextTokenizer(bundle.tokenizer)
        self._text = host.compiled(self.programs.embed_text)
        self._music = host.compiled(self.programs.embed_music)
        self._quantize = host.compiled(self.programs.mulan_codes)
        self._continue = host.compiled(self.programs.continue_tokens, static_argnames=("length", "sampling"))
        self._diffuse = host.compiled(
            self.programs.diffuse_window, static_argnames=("steps", "schedule", "scale", "clip", "strength")
        )
        self._decode = host.compiled(self.programs.decode_latents)
        self._magnitudes = host.compiled(self.programs.decode_magnitudes)
        self._phases = host.compiled(self.programs.find_phases)

    def _on_chips(self, name: str, params: Any) -> Any:
        def kept(path: tuple[Any, ...], leaf: np.ndarray) -> np.ndarray:
            return leaf.astype(self.programs.kept_dtype(name, path)) if _is_float(leaf) else leaf

        return self._host.whole(jax.tree_util.tree_map_with_path(kept, params))

    @property
    def text_length(self) -> int:
        """Longest prompt in WordPiece tokens, first and last token included."""
        return self.mulan_config.text_length

    @property
    def knows_controls(self) -> bool:
        """Whether the language model was trained with controls."""
        return bool(self.programs.vocabulary.controls)

    def embed_text(self, prompts: list[str]) -> Float[Array, "B E"]:
        """MuLan embeddings of sentences, unit norm."""
        return self._text(self.params["mulan"], self._host.rows(self.tokenizer.encode(prompts, self.text_length)))

    def embed_music(self, audio: Float[Array | np.ndarray, "B T"]) -> Float[Array, "B E"]:
        """MuLan embeddings of music at the geometry's sample rate, T as in its clips; unit norm."""
        return self._music(self.params["mulan"], self._host.rows(audio))

    def mulan_codes(self, embeddings: Float[Array, "B E"]) -> Int[Array, "B Q"]:
        """Residual VQ codes of MuLan embeddings."""
        return self._quantize(self.params["codes"], embeddings)

    def condition(
        self, codes: Int[Array, "B Q"], levels: int, controls: Int[np.ndarray, "B K"] | None = None
    ) -> Int[Array, "B P"]:
        """What the language model starts from: MuLan codes, of which only the first `levels` count (0 for all), and the codes
        of the controls."""
        vocabulary = self.programs.vocabulary
        condition = vocabulary.condition(codes, controls=None if controls is None else self._host.rows(controls))
        place = jnp.arange(condition.shape[1])[None, :]
        unread = (place > (levels or codes.shape[1])) & (place <= codes.shape[1])
        return jnp.where(unread, vocabulary.unknown, condition)

    def draw(
        self,
        condition: Int[Array, "B P"],
        earlier: Int[np.ndarray, "B W"],
        keys: UInt32[Array, "B 2"],
        length: int,
        sampling: decode.Sampling,
        negative: Int[Array, "B P"] | None = None,
    ) -> Int[Array, "B length"]:
        """`length` semantic codes after the earlier ones; guidance leads away from `negative`, a condition as well."""
        return self._continue(
            self.params["lm"],
            condition,
            self._host.rows(earlier),
            self._host.rows(keys),
            negative=negative,
            length=length,
            sampling=sampling,
        )

    def diffuse(
        self,
        tokens: Int[np.ndarray, "B W"],
        keys: UInt32[Array, "B 2"],
        known: Float[np.ndarray, "B L D"],
        mask: Bool[np.ndarray, "1 L"],
        settings: Settings,
        strength: float = 1.0,
    ) -> Float[Array, "B L D"]:
        """Latents of tokens; frames that `mask` marks are known.

        Args:
          tokens: L / frames_per_token moments.
          known: clean latents at delta = 0 where `mask` is True; with a strength below 1 what diffusion starts from, too.
          strength: share of the way to pure noise that diffusion starts at.
        """
        return self._diffuse(
            self.params["dpd"],
            self._host.rows(tokens),
            self._host.rows(keys),
            self._host.rows(known),
            jnp.asarray(mask),
            steps=settings.steps,
            schedule=settings.schedule,
            scale=settings.guidance,
            clip=settings.clip_latents,
            strength=strength,
        )

    def audio(
        self,
        latents: Float[Array | np.ndarray, "B L D"],
        known: Float[np.ndarray, "B T"] | None = None,
        fixed: Bool[np.ndarray, " T"] | None = None,
    ) -> Float[Array, "B T"]:
        """Waveforms; what long music is decoded from goes through the decoder in overlapping pieces of two training clips.

        Args:
          known: music that stands already, where `fixed` says so. A decoder of magnitudes has no phases of its own: those
            that are found for it fit the known samples, and phases are found for all of the music at once, so that there
            are no seams.
        """
        latents = self._host.rows(latents)
        if not self.programs.decodes_magnitudes:
            return self._in_pieces(self._decode, latents, self.geometry.hop)
        magnitudes = self._in_pieces(self._magnitudes, latents, self.programs.autoencoder.config.magnitude.frames)
        shape = latents.shape[0], latents.shape[1] * self.geometry.hop
        known = np.zeros(shape, np.float32) if known is None else known
        fixed = np.broadcast_to(np.zeros(shape[1], bool) if fixed is None else fixed, shape)
        return self._phases(magnitudes, self._host.rows(known), self._host.rows(fixed))

    def _in_pieces(self, decode: Any, latents: Array, each: int) -> Array:
        """What `decode` makes of latents, `each` values of a frame, in pieces so that memory does not grow."""
        piece, frames = 2 * self.geometry.clip_frames, latents.shape[1]
        if frames <= piece:
            return decode(self.params["autoencoder"], latents)
        margin = piece // 4
        parts = []
        for begin in range(0, frames, piece - 2 * margin):
            end = min(begin + piece - 2 * margin, frames)
            at = min(max(begin - margin, 0), frames - piece)
            decoded = decode(self.params["autoencoder"], latents[:, at : at + piece])
            parts.append(decoded[:, (begin - at) * each : (end - at) * each])
        return jnp.concatenate(parts, axis=1)


def fold_in(keys: UInt32[Array, "B 2"], use: int) -> UInt32[Array, "B 2"]:
    """A key of each row for another use."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, use)


def _is_float(leaf: np.ndarray) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
