"""The models of a bundle, ready to run: one method per arrow of the system's figure, compiled once per shape."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.bundle.bundle import Bundle
from melody_jax.config import from_dict
from melody_jax.generate.host import Host
from melody_jax.generate.programs import Programs
from melody_jax.generate.windows import Windows
from melody_jax.lm import decode
from melody_jax.mulan import minilm
from melody_jax.mulan.config import PretrainedText
from melody_jax.mulan.tokenizer import TextTokenizer
from melody_jax.shapes import Array, Float, Int, UInt32

TEXT_TOKENS = 64  # longest prompt in WordPiece tokens; what is longer is cut


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
        self._tokenizer = TextTokenizer(bundle.tokenizer)
        self._text = host.compiled(self.programs.embed_text)
        self._music = host.compiled(self.programs.embed_music)
        self._quantize = host.compiled(self.programs.mulan_codes)
        self._continue = host.compiled(self.programs.continue_tokens, static_argnames=("length", "sampling"))
        self._diffuse = host.compiled(
            self.programs.diffuse_window, static_argnames=("steps", "schedule", "scale", "clip")
        )
        self._decode = host.compiled(self.programs.decode_latents)

    def _on_chips(self, name: str, params: Any) -> Any:
        def kept(path: tuple[Any, ...], leaf: np.ndarray) -> np.ndarray:
            return leaf.astype(self.programs.kept_dtype(name, path)) if _is_float(leaf) else leaf

        return self._host.whole(jax.tree_util.tree_map_with_path(kept, params))

    def embed_text(self, prompts: list[str]) -> Float[Array, "B E"]:
        """MuLan embeddings of sentences, unit norm."""
        length = min(TEXT_TOKENS, self.mulan_config.text.positions)
        return self._text(self.params["mulan"], self._host.rows(self._tokenizer.encode(prompts, length)))

    def embed_music(self, audio: Float[Array | np.ndarray, "B T"]) -> Float[Array, "B E"]:
        """MuLan embeddings of music at the geometry's sample rate, T as in its clips; unit norm."""
        return self._music(self.params["mulan"], self._host.rows(audio))

    def mulan_codes(self, embeddings: Float[Array, "B E"]) -> Int[Array, "B Q"]:
        """Residual VQ codes of MuLan embeddings."""
        return self._quantize(self.params["codes"], embeddings)

    def tokens(
        self,
        codes: Int[Array, "B Q"],
        keys: UInt32[Array, "B 2"],
        windows: Windows,
        sampling: decode.Sampling,
        levels: int,
        controls: Int[np.ndarray, "B K"] | None = None,
    ) -> Int[Array, "B W"]:
        """Semantic tokens, R for each moment of the windows, from MuLan codes, of which only the first `levels` count (0 for
        all), and the codes of the controls.

        Beyond the first window each one continues what the last ones end with.
        """
        vocabulary, each = self.programs.vocabulary, self.geometry.semantic_levels
        condition = vocabulary.condition(codes, controls=None if controls is None else jnp.asarray(controls))
        place = jnp.arange(condition.shape[1])[None, :]
        unread = (place > (levels or codes.shape[1])) & (place <= codes.shape[1])
        condition = jnp.where(unread, vocabulary.unknown, condition)
        tokens = jnp.zeros((codes.shape[0], 0), jnp.int32)
        for index, start in enumerate(windows.starts):
            length = (start + windows.size) * each - tokens.shape[1]
            earlier = tokens[:, start * each :]
            drawn = self._continue(
                self.params["lm"], condition, earlier, fold_in(keys, index), length=length, sampling=sampling
            )
            tokens = jnp.concatenate([tokens, drawn], axis=1)
        return tokens

    def latents(
        self,
        tokens: Int[Array, "B W"],
        keys: UInt32[Array, "B 2"],
        windows: Windows,
        steps: int,
        schedule: str,
        scale: float,
        clip: float,
    ) -> Float[Array, "B L D"]:
        """Latents of the windows (in tokens).

        Where a window overlaps earlier ones their latents are known: clean frames at delta = 0.
        """
        per_token, channels = self.geometry.frames_per_token, self.geometry.latent_channels
        size, each = windows.size * per_token, self.geometry.semantic_levels
        done = jnp.zeros((tokens.shape[0], 0, channels), jnp.float32)
        for index, start in enumerate(windows.starts):
            known = done[:, start * per_token :]
            overlap = known.shape[1]
            known = jnp.pad(known, ((0, 0), (0, size - overlap), (0, 0)))
            window = self._diffuse(
                self.params["dpd"],
                tokens[:, start * each : (start + windows.size) * each],
                fold_in(keys, index),
                known,
                jnp.arange(size)[None, :] < overlap,
                steps=steps,
                schedule=schedule,
                scale=scale,
                clip=clip,
            )
            done = jnp.concatenate([done, window[:, overlap:]], axis=1)
        return done

    def audio(self, latents: Float[Array, "B L D"]) -> Float[Array, "B T"]:
        """Waveforms; long music is decoded in overlapping pieces of two training clips, so that memory does not grow."""
        piece, frames, hop = 2 * self.geometry.clip_frames, latents.shape[1], self.geometry.hop
        if frames <= piece:
            return self._decode(self.params["autoencoder"], latents)
        margin = piece // 4
        parts = []
        for begin in range(0, frames, piece - 2 * margin):
            end = min(begin + piece - 2 * margin, frames)
            at = min(max(begin - margin, 0), frames - piece)
            decoded = self._decode(self.params["autoencoder"], latents[:, at : at + piece])
            parts.append(decoded[:, (begin - at) * hop : (end - at) * hop])
        return jnp.concatenate(parts, axis=1)


def fold_in(keys: UInt32[Array, "B 2"], use: int) -> UInt32[Array, "B 2"]:
    """A key of each row for another use."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, use)


def _is_float(leaf: np.ndarray) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
