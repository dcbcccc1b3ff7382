"""Music and text as the representation models see them: embeddings, codes, latents. What `melody tokenize` writes."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.autoencoder.config import AutoencoderConfig
from melody_jax.autoencoder.network import Autoencoder
from melody_jax.bundle.lineage import check_lineage
from melody_jax.bundle.part import Part
from melody_jax.codes import rvq
from melody_jax.config import from_dict
from melody_jax.errors import UserError
from melody_jax.generate.host import Host
from melody_jax.graph import READ_AUDIO
from melody_jax.mulan import minilm
from melody_jax.mulan.config import MuLanConfig
from melody_jax.mulan.network import MuLan
from melody_jax.mulan.tokenizer import TextTokenizer
from melody_jax.nn.measured import variables
from melody_jax.semantic.config import SemanticConfig
from melody_jax.semantic.network import SemanticEncoder
from melody_jax.shapes import Array, Float, Int

NEEDED = READ_AUDIO


class Representations:
    """The four trained representation models, each arrow compiled once per shape.

    Args:
      tokenizer: a tokenizer.json, where the text tower has one of its own.
      devices: that they run on; all accelerators of this host if None.

    Raises:
      UserError: a part is missing, or the parts were not trained together.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        tokenizer: str | os.PathLike | None = None,
        devices: Sequence[Any] | None = None,
    ):
        missing = [name for name in NEEDED if name not in parts]
        if missing:
            raise UserError(f"these stages are not trained yet: {', '.join(missing)}")
        check_lineage({name: parts[name] for name in NEEDED})
        self.geometry = parts["autoencoder"].geometry
        self.ids = {name: parts[name].id for name in NEEDED}
        self._autoencoder = Autoencoder(from_dict(AutoencoderConfig, parts["autoencoder"].config), self.geometry)
        self.mulan_config = from_dict(MuLanConfig, parts["mulan"].config)
        self._mulan = MuLan(self.mulan_config, self.geometry)
        self._semantic = SemanticEncoder(from_dict(SemanticConfig, parts["semantic"].config), self.geometry)
        params = {name: dict(parts[name].params) for name in NEEDED}
        if not self.mulan_config.train_text_tower:
            params["mulan"]["text"] = minilm.load(self.mulan_config.pretrained_text, self.mulan_config.text)
        self._host = host = Host(devices)
        self._params = host.whole(jax.tree.map(_float32, params))  # a bundle keeps its weights in float16
        self._tokenizer = TextTokenizer(tokenizer)
        self._encode_jit = host.compiled(self._encode)
        self._reconstruct_jit = host.compiled(self._reconstruct)
        self._music_jit, self._text_jit = host.compiled(self._music), host.compiled(self._text)
        self._text_codes_jit = host.compiled(self._text_codes)

    def encode(self, audio: Float[np.ndarray, "B T"], captions: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Clips and the captions of each as training data of LM and DPD.

        Returns:
          mulan [B, Q] int32, text B times [C, Q] int32 (C captions of that clip, perhaps none), semantic [B, N R] int32,
          latents [B, L, D] float16 (scaled to [-1, 1]).
        """
        encoded = jax.device_get(self._encode_jit(self._params, self._host.rows(audio)))
        codes = self.text_codes([caption for clip in captions for caption in clip], len(audio))
        text = np.split(codes, np.cumsum([len(clip) for clip in captions])[:-1])
        return {**encoded, "text": text, "latents": encoded["latents"].astype(np.float16)}

    def text_codes(self, sentences: Sequence[str], rows: int) -> Int[np.ndarray, "B Q"]:
        """MuLan codes of sentences, computed `rows` at a time: one compiled shape for any number of them."""
        filled = [*sentences, *[""] * (-len(sentences) % rows)]
        tokens = self._tokenized(filled).reshape(-1, rows, self.mulan_config.text_length)
        codes = [np.asarray(self._text_codes_jit(self._params, self._host.rows(group))) for group in tokens]
        nothing = np.zeros((0, self.geometry.mulan_tokens), np.int32)
        return np.concatenate([nothing, *codes])[: len(sentences)]

    def reconstruct(self, audio: Float[np.ndarray, "B T"]) -> Float[np.ndarray, "B T"]:
        """Through the autoencoder and back, scaling and clipping of the latents included."""
        return np.asarray(self._reconstruct_jit(self._params, self._host.rows(audio)))

    def embed_music(self, audio: Float[np.ndarray, "B T"]) -> Float[np.ndarray, "B E"]:
        """MuLan embeddings of clips, unit norm."""
        return np.asarray(self._music_jit(self._params, self._host.rows(audio)))

    def embed_text(self, sentences: list[str]) -> Float[np.ndarray, "B E"]:
        """MuLan embeddings of sentences, unit norm."""
        return np.asarray(self._text_jit(self._params, self._host.rows(self._tokenized(sentences))))

    def _tokenized(self, sentences: list[str]) -> Int[np.ndarray, "B W"]:
        return self._tokenizer.encode(sentences, self.mulan_config.text_length)

    def _encode(self, params: Any, audio: Array) -> dict[str, Array]:
        features = self._semantic.apply(variables(params["semantic"]), audio, method="features")
        latents = self._autoencoder.apply(variables(params["autoencoder"]), audio, method="to_latents")
        mulan: Int[Array, "B Q"] = rvq.encode(params["codes"]["rvq"], self._music(params, audio))
        codes = rvq.encode(params["codes"]["kmeans"], features)  # pyright: ignore[reportArgumentType]
        levels = jnp.arange(self.geometry.semantic_levels) * self.geometry.semantic_codes
        semantic = (codes + levels[None, None]).reshape(audio.shape[0], -1)
        return {"mulan": mulan, "semantic": semantic, "latents": latents}  # pyright: ignore[reportReturnType]

    def _reconstruct(self, params: Any, audio: Array) -> Array:
        weights = variables(params["autoencoder"])
        latents = self._autoencoder.apply(weights, audio, method="to_latents")
        return self._autoencoder.apply(weights, latents, method="from_latents")  # pyright: ignore[reportReturnType]

    def _music(self, params: Any, audio: Array) -> Array:
        return self._mulan.apply(variables(params["mulan"]), audio, method="embed_music")  # pyright: ignore[reportReturnType]

    def _text(self, params: Any, tokens: Array) -> Array:
        return self._mulan.apply(variables(params["mulan"]), tokens, method="embed_text")  # pyright: ignore[reportReturnType]

    def _text_codes(self, params: Any, tokens: Array) -> Array:
        return rvq.encode(params["codes"]["rvq"], self._text(params, tokens))


def _float32(leaf: np.ndarray) -> np.ndarray:
    return leaf.astype(np.float32) if np.issubdtype(leaf.dtype, np.floating) else leaf
