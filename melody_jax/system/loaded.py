"""A system with its weights on the chips of this host, every arrow compiled once per shape."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from melody_jax.bundle.lineage import check_lineage
from melody_jax.bundle.part import Part
from melody_jax.graph import READ_AUDIO, STAGES
from melody_jax.lm.decode import Sampling
from melody_jax.mulan import minilm
from melody_jax.mulan.config import PretrainedText
from melody_jax.mulan.tokenizer import TextTokenizer
from melody_jax.parallel import rules
from melody_jax.parallel.batch import batch_sharding
from melody_jax.parallel.mesh import make_mesh
from melody_jax.shapes import Array, Bool, Float, Int, UInt32
from melody_jax.storage import Path
from melody_jax.system.programs import Programs, signature
from melody_jax.system.system import System


class Loaded:
    """The arrows of a system, called with inputs alone.

    Weights are whole on every chip and rows split over them; every method keeps the rows of what it gets on the chips where
    they are. Each model computes in the dtype of its own config; weights are kept as `System.kept_dtype` says, whatever the
    files hold.

    Args:
      parts: those that are needed for what is done with it.
      tokenizer: a tokenizer.json, where the text tower has one of its own.
      devices: that it runs on; None: all accelerators of this host, of CPUs one, which has all cores already.
      text: the frozen text tower's weights; None: those that MuLan's config names.
      programs: a folder in which compiled arrows are kept for later processes, see `Programs`; None: each process compiles
        its own.

    Raises:
      UserError: the parts were not trained together, or the package with the text tower's weights is missing or another.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        tokenizer: str | os.PathLike | None = None,
        devices: Sequence[Any] | None = None,
        text: PretrainedText | None = None,
        programs: Path | None = None,
    ):
        check_lineage(parts)
        self.geometry = next(iter(parts.values())).geometry
        configs = {name: part.config for name, part in parts.items()}
        self.system = system = System(configs, self.geometry)
        local = jax.local_devices() if devices is None else devices
        alone = devices is None and local[0].platform == "cpu"
        self._mesh = make_mesh("data=-1", local[:1] if alone else local)
        made_of = sorted(configs.items()), self.geometry
        self._programs = (
            None if programs is None else Programs(programs, made_of, self._mesh.devices.flatten().tolist())
        )
        self.tokenizer = TextTokenizer(tokenizer)
        self.weights: dict[str, Any] = {}
        for name in STAGES:
            if name not in parts:
                continue
            tree = parts[name].params
            if name == "mulan" and not system.mulan.config.train_text_tower:
                mulan = system.mulan.config
                tree = {**tree, "text": minilm.load(text or mulan.pretrained_text, mulan.text)}
            self.weights[name] = self._whole(system.kept(name, tree))
        self._embed_text, self._embed_music = self._compiled(system.embed_text), self._compiled(system.embed_music)
        self._mulan_codes, self._text_codes = self._compiled(system.mulan_codes), self._compiled(system.text_codes)
        self._represent, self._reconstruct = self._compiled(system.represent), self._compiled(system.reconstruct)
        self._row_keys, self._fold_in = self._compiled(system.row_keys), self._compiled(system.fold_in)
        self._condition, self._later = self._compiled(system.condition), self._compiled(system.later)
        self._write, self._redraw = self._compiled(system.write_tokens), self._compiled(system.redraw)
        self._diffuse = self._compiled(system.diffuse)
        self._decode, self._magnitudes = self._compiled(system.decode), self._compiled(system.decode_magnitudes)
        self._phases = self._compiled(system.find_phases)

    def _compiled(self, arrow: Callable[..., Any]) -> Callable[..., Any]:
        """The arrow under `jax.jit`, for arrays of `_whole` and `_rows`, its executables kept where some are."""
        fixed = [p.name for p in inspect.signature(arrow).parameters.values() if p.kind is p.KEYWORD_ONLY]
        program, programs = jax.jit(rules.on_mesh(arrow, self._mesh), static_argnames=fixed), self._programs
        if programs is None:
            return program
        there: dict[Any, Any] = {}

        def run(*arguments: Any, **how: Any) -> Any:
            key = signature(arguments), *sorted(how.items())
            if key not in there:
                there[key] = programs.executable(arrow.__name__, program, arguments, how)
            return there[key](*arguments)

        return run

    def filled(self, rows: int) -> int:
        """The least number of rows from `rows` on that gives every chip the same number."""
        return rows + -rows % self._mesh.size

    def _whole(self, tree: Any) -> Any:
        """The sharding of arrays that every chip holds whole."""
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))

    def _rows(self, array: np.ndarray | Array) -> Array:
        """An array [B, ...] of which every chip holds some rows; all of them where the chips do not divide B."""
        if array.shape[0] % self._mesh.size:
            return self._whole(array)
        return jax.device_put(array, batch_sharding(self._mesh))

    @property
    def text_length(self) -> int:
        """Longest prompt in WordPiece tokens, first and last token included."""
        return self.system.mulan.config.text_length

    def _tokenized(self, sentences: Sequence[str]) -> Int[np.ndarray, "B W"]:
        return self.tokenizer.encode(list(sentences), self.text_length)

    def embed_text(self, sentences: Sequence[str]) -> Float[Array, "B E"]:
        """MuLan embeddings of sentences, unit norm."""
        return self._embed_text(self.weights["mulan"], self._rows(self._tokenized(sentences)))

    def embed_music(self, audio: Float[Array | np.ndarray, "B T"]) -> Float[Array, "B E"]:
        """MuLan embeddings of music at the geometry's sample rate, T as in its clips; unit norm."""
        return self._embed_music(self.weights["mulan"], self._rows(audio))

    def mulan_codes(self, embeddings: Float[Array, "B E"]) -> Int[Array, "B Q"]:
        """Residual VQ codes of MuLan embeddings."""
        return self._mulan_codes(self.weights["codes"], embeddings)

    def text_codes(self, sentences: Sequence[str], rows: int) -> Int[np.ndarray, "B Q"]:
        """MuLan codes of sentences, computed `rows` at a time: one compiled shape for any number of them."""
        filled = [*sentences, *[""] * (-len(sentences) % rows)]
        tokens = self._tokenized(filled).reshape(-1, rows, self.text_length)
        weights = self._of("mulan", "codes")
        codes = [np.asarray(self._text_codes(weights, self._rows(group))) for group in tokens]
        nothing = np.zeros((0, self.geometry.mulan_tokens), np.int32)
        return np.concatenate([nothing, *codes])[: len(sentences)]

    def represent(self, audio: Float[np.ndarray, "B T"], captions: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Clips and the captions of each as training data of LM and DPD.

        Returns:
          mulan [B, Q] int32, text B times [captions, Q] int32 (of that clip, perhaps none), semantic [B, N R]
          int32, latents [B, L, D] float16 (scaled to [-1, 1]).
        """
        found = jax.device_get(self._represent(self._of(*READ_AUDIO), self._rows(audio)))
        codes = self.text_codes([caption for clip in captions for caption in clip], len(audio))
        text = np.split(codes, np.cumsum([len(clip) for clip in captions])[:-1])
        return {**found, "text": text, "latents": found["latents"].astype(np.float16)}

    def reconstruct(self, audio: Float[np.ndarray, "B T"]) -> Float[Array, "B T"]:
        """Through the autoencoder and back, scaling and clipping of the latents included."""
        return self._reconstruct(self.weights["autoencoder"], self._rows(audio))

    def row_keys(self, seeds: Sequence[int], candidates: Sequence[int]) -> UInt32[Array, "B 2"]:
        """The key of each row that all its randomness comes from."""
        return self._row_keys(self._rows(np.asarray(seeds, np.uint32)), self._rows(np.asarray(candidates, np.int32)))

    def fold_in(self, keys: UInt32[Array | np.ndarray, "B 2"], use: int) -> UInt32[Array, "B 2"]:
        """The keys of rows for another use."""
        return self._fold_in(self._rows(keys), self._whole(np.int32(use)))

    def later(self, condition: Int[Array, "B prefix"], moments: int) -> Int[Array, "B prefix"]:
        """The condition of sequences that begin so many moments later."""
        return self._later(condition, self._whole(np.int32(moments)))

    def condition(
        self,
        codes: Int[Array | np.ndarray, "B Q"],
        levels: int,
        controls: Int[np.ndarray, "B controls"] | None = None,
    ) -> Int[Array, "B prefix"]:
        """What the language model starts from: MuLan codes, of which only the first `levels` count (0 for all), and the codes
        of the controls."""
        asked = None if controls is None else self._rows(controls)
        return self._condition(self._rows(codes), asked, levels=levels)

    def write_tokens(
        self,
        condition: Int[Array, "B prefix"],
        earlier: Int[np.ndarray, "B W"],
        keys: UInt32[Array, "B 2"],
        length: int,
        sampling: Sampling,
        negative: Int[Array, "B prefix"] | None = None,
    ) -> Int[Array, "B length"]:
        """`length` semantic codes after the earlier ones; guidance leads away from `negative`, a condition as well."""
        inputs = condition, self._rows(earlier), self._rows(keys)
        return self._write(self.weights["lm"], *inputs, negative, length=length, sampling=sampling)

    def redraw(
        self,
        condition: Int[Array, "B prefix"],
        semantic: Int[np.ndarray, "B N"],
        replaced: Bool[np.ndarray, "B N"],
        keys: UInt32[Array, "B 2"],
        sampling: Sampling,
    ) -> Int[Array, "B N"]:
        """Clips' semantic codes, those at `replaced` drawn anew; see `lm.redraw.redraw`."""
        rows = (self._rows(each) for each in (semantic, replaced, keys))
        return self._redraw(self.weights["lm"], condition, *rows, sampling=sampling)

    def diffuse(
        self,
        tokens: Int[np.ndarray, "B W"],
        keys: UInt32[Array, "B 2"],
        known: Float[np.ndarray, "B L D"],
        mask: Bool[np.ndarray, "1 L"],
        condition: Int[Array, "B prefix"] | None = None,
        **how: Any,
    ) -> Float[Array, "B L D"]:
        """Latents of tokens; frames that `mask` marks are known.

        Args:
          tokens: L / frames_per_token moments.
          known: clean latents at delta = 0 where `mask` is True; with a strength below 1 what diffusion starts from, too.
          condition: the language model's, for a network that reads one (`DPDConfig.prompt`); ignored by others.
          **how: steps, schedule, scale, clip, strength; see `System.diffuse`.
        """
        inputs = self._rows(tokens), self._rows(keys), self._rows(known), self._whole(mask)
        return self._diffuse(self.weights["dpd"], *inputs, condition, **how)

    def decode(
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
        latents = self._rows(latents)
        if not self.system.decodes_magnitudes:
            decode = functools.partial(self._decode, self.weights["autoencoder"])
            return self.system.in_pieces(decode, latents, self.geometry.hop)
        decode = functools.partial(self._magnitudes, self.weights["autoencoder"])
        magnitudes = self.system.in_pieces(decode, latents, self.system.autoencoder.config.magnitude.frames)
        shape = latents.shape[0], latents.shape[1] * self.geometry.hop
        known = np.zeros(shape, np.float32) if known is None else known
        fixed = np.broadcast_to(np.zeros(shape[1], bool) if fixed is None else fixed, shape)
        return self._phases(magnitudes, self._rows(known), self._rows(fixed))

    def _of(self, *names: str) -> dict[str, Any]:
        return {name: self.weights[name] for name in names}
