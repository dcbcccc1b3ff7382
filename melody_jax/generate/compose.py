"""From prompts, and from music that stands already, to tokens, latents and sound: one batch of rows at a time."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.generate.clock import Clock
from melody_jax.generate.settings import Settings
from melody_jax.generate.windows import Stretch, starts, stretches
from melody_jax.shapes import Array, Bool, Float, Int, UInt32
from melody_jax.system import Loaded

_LEAST_HISTORY = 0.5
"""Share of a window of the language model that it goes on from, at least: it remembers nothing else."""


@dataclasses.dataclass(frozen=True)
class Known:
    """Music that stands already, of which a part is to be made anew.

    Attributes:
      tokens: [N R] semantic codes, R for each of N moments.
      latents: [L, D].
      drawn: [N], moments whose tokens are drawn.
      made: [N], moments whose latents are made.
      audio: [T], T = N token_samples, the music itself, with which new music joins up; None where all of it is made.
      strength: share of the way to noise that diffusion starts at; below 1 what is made resembles what was there.
      since: seconds of the given music before the first of these moments.
    """

    tokens: Int[np.ndarray, " W"]
    latents: Float[np.ndarray, "L D"]
    drawn: Bool[np.ndarray, " N"]
    made: Bool[np.ndarray, " N"]
    audio: Float[np.ndarray, " T"] | None = None
    strength: float = 1.0
    since: float = 0.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One piece to be made.

    Attributes:
      prompt: a sentence, or a clip [T] of music to resemble.
      seed: of its own.
      moments: N, length in moments.
      negative: a sentence that the language model is led away from.
      known: None where nothing stands yet.
      candidate: this one alone; None for those that the settings say.
      controls: their codes; None where nothing is asked for.
    """

    prompt: str | Float[np.ndarray, " T"]
    seed: int
    moments: int
    negative: str | None = None
    known: Known | None = None
    candidate: int | None = None
    controls: Int[np.ndarray, " controls"] | None = None

    @property
    def group(self) -> tuple[Any, ...]:
        """Rows with the same one can be made beside one another: their arrays have the same shapes and places."""
        shape: tuple[Any, ...] = (isinstance(self.prompt, str), self.moments, self.negative is None)
        shape += (self.controls is None,)
        if self.known is not None:
            shape += (self.known.drawn.tobytes(), self.known.made.tobytes(), self.known.strength)
        return shape


@dataclasses.dataclass(frozen=True)
class Batch:
    """One candidate of every row.

    Attributes:
      candidates: [B], which ones these are.
      mulan: [B, Q].
      tokens: [B, N R].
      audio: [B, T], as the decoder gives it, T = N token_samples.
      similarity: [B], cosine of the MuLan embeddings of prompt and music; None where it was not measured.
    """

    candidates: Int[np.ndarray, " B"]
    mulan: Int[np.ndarray, "B Q"]
    tokens: Int[np.ndarray, "B W"]
    audio: Float[np.ndarray, "B T"]
    similarity: Float[np.ndarray, " B"] | None = None

    def better(self, other: "Batch") -> "Batch":
        """Of every row the candidate that is nearer to its prompt; this one where both are as near."""
        assert self.similarity is not None and other.similarity is not None
        nearer = other.similarity > self.similarity
        fields = {
            field.name: (getattr(self, field.name), getattr(other, field.name)) for field in dataclasses.fields(self)
        }
        return Batch(**{n: np.where(nearer.reshape(-1, *(1,) * (a.ndim - 1)), b, a) for n, (a, b) in fields.items()})


def laps(settings: Settings) -> int:
    """How often `Clock.lap` is called for a batch."""
    return 1 + settings.candidates * (3 if settings.candidates == 1 else 4)


class Composer:
    """Makes batches with a loaded system."""

    def __init__(self, loaded: Loaded):
        self.loaded = loaded
        self.geometry = loaded.geometry
        self.levels = loaded.geometry.semantic_levels

    def batches(self, rows: Sequence[Row], settings: Settings, clock: Clock):
        """One `Batch` for every candidate, in their order."""
        prompt = self.embed([row.prompt for row in rows])
        condition, mulan = self.condition(prompt, rows, settings)
        negative = None
        if rows[0].negative is not None:
            away = self.embed([row.negative or "" for row in rows])
            negative, _ = self.condition(away, [dataclasses.replace(row, controls=None) for row in rows], settings)
        clock.lap("prompt", condition)
        for index in range(settings.candidates):
            which = [index if row.candidate is None else row.candidate for row in rows]
            batch = self._candidate(rows, which, condition, negative, settings, clock)
            batch = dataclasses.replace(batch, mulan=np.asarray(mulan))
            if settings.candidates > 1:
                batch = dataclasses.replace(batch, similarity=self.similarity(prompt, batch.audio))
                clock.lap("choice")
            yield batch

    def embed(self, prompts: Sequence[Any]) -> Float[Array, "B E"]:
        """MuLan embeddings of sentences, or of clips."""
        if isinstance(prompts[0], str):
            return self.loaded.embed_text(list(prompts))
        return self.loaded.embed_music(np.stack(prompts))

    def condition(self, embeddings: Array, rows: Sequence[Row], settings: Settings) -> tuple[Array, Array]:
        """(what the language model starts from, MuLan codes)."""
        codes = self.loaded.mulan_codes(embeddings)
        controls = None
        if all(row.controls is not None for row in rows):
            controls = np.stack([row.controls for row in rows if row.controls is not None])
        return self.loaded.condition(codes, settings.mulan_levels, controls), codes

    def similarity(self, prompt: Float[Array, "B E"], audio: Float[np.ndarray, "B T"]) -> Float[np.ndarray, " B"]:
        """Cosine of the MuLan embeddings of prompts and music, the mean over whole clips; shorter music is repeated."""
        size = self.geometry.clip_samples
        if audio.shape[1] < size:
            audio = np.stack([np.resize(row, size) for row in audio])
        places = range(0, audio.shape[1] - size + 1, size)
        clips = [audio[:, at : at + size].astype(np.float32) for at in places]
        return np.mean([jnp.sum(prompt * self.loaded.embed_music(clip), axis=1) for clip in clips], axis=0)

    def _candidate(
        self,
        rows: Sequence[Row],
        which: Sequence[int],
        condition: Array,
        negative: Array | None,
        settings: Settings,
        clock: Clock,
    ) -> Batch:
        keys, fold_in = self.loaded.row_keys([row.seed for row in rows], which), self.loaded.fold_in
        count, known = rows[0].moments, rows[0].known
        made = np.ones(count, bool) if known is None else known.made
        drawn = np.ones(count, bool) if known is None else known.drawn
        frames = count * self.geometry.frames_per_token
        tokens = np.zeros((len(rows), count * self.levels), np.int32)
        latents = np.zeros((len(rows), frames, self.geometry.latent_channels), np.float32)
        if known is not None:
            tokens[:] = [row.known.tokens for row in rows if row.known is not None]
            latents[:] = [row.known.latents for row in rows if row.known is not None]
        tokens = self._tokens(tokens, drawn, condition, negative, fold_in(keys, 0), settings)
        clock.lap("language model")
        strength = 1.0 if known is None else known.strength
        latents = self._latents(latents, made, tokens, condition, fold_in(keys, 1), settings, strength)
        clock.lap("diffusion")
        music, fixed = None, None
        if known is not None and known.audio is not None:
            music = np.stack([row.known.audio for row in rows if row.known is not None and row.known.audio is not None])
            fixed = ~np.repeat(made, self.geometry.token_samples)
        audio = jax.device_get(self.loaded.decode(latents, music, fixed))
        clock.lap("decoder")
        return Batch(np.asarray(which), np.zeros((len(rows), 0), np.int32), tokens, audio)

    def play(
        self,
        tokens: Int[np.ndarray, "B W"],
        condition: Array | None,
        seeds: Sequence[int],
        moments: int,
        settings: Settings,
    ) -> Float[np.ndarray, "B T"]:
        """Diffusion and decoder: the sound of given tokens, turned down where it is beyond full scale."""
        keys = self.loaded.row_keys(seeds, [0] * len(seeds))
        frames = moments * self.geometry.frames_per_token
        latents = np.zeros((len(tokens), frames, self.geometry.latent_channels), np.float32)
        new = np.ones(moments, bool)
        latents = self._latents(latents, new, tokens, condition, self.loaded.fold_in(keys, 1), settings, 1.0)
        audio = jax.device_get(self.loaded.decode(latents))
        return audio / np.maximum(np.abs(audio).max(axis=1, keepdims=True), 1.0)

    def window(self, settings: Settings) -> tuple[int, int]:
        """(length of the diffusion's windows, how much of it overlaps), in moments."""
        geometry = self.geometry
        size = max(geometry.tokens_in(settings.window_seconds) or geometry.clip_tokens, 2)
        return size, _kept(size, settings.overlap)

    def sequence(self, settings: Settings) -> tuple[int, int]:
        """(moments in a window of the language model, those of them that it continues)."""
        size = self.loaded.system.lm.config.window or self.geometry.clip_tokens
        return size, _kept(size, max(settings.overlap, _LEAST_HISTORY))

    def stretches(self, drawn: Bool[np.ndarray, " N"], settings: Settings) -> Iterator[Stretch]:
        """The moments that are to be drawn, as the language model draws them."""
        return stretches(drawn, *self.sequence(settings), max(1, round(self.geometry.token_rate)))

    def _tokens(
        self,
        tokens: Int[np.ndarray, "B W"],
        drawn: Bool[np.ndarray, " N"],
        condition: Array,
        negative: Array | None,
        keys: UInt32[Array, "B 2"],
        settings: Settings,
    ) -> Int[np.ndarray, "B W"]:
        """Tokens of the moments that are to be drawn, each stretch after what is before it."""
        levels = self.levels
        for index, stretch in enumerate(self.stretches(drawn, settings)):
            at, seen = stretch.begin, stretch.begin - stretch.earlier
            fresh = self.loaded.write_tokens(
                self.loaded.later(condition, seen),
                tokens[:, seen * levels : at * levels],
                self.loaded.fold_in(keys, index),
                stretch.length * levels,
                settings.sampling,
                negative,
            )
            count = stretch.kept * levels
            tokens[:, at * levels : at * levels + count] = np.asarray(fresh)[:, :count]
        return tokens

    def _latents(
        self,
        latents: Float[np.ndarray, "B L D"],
        made: Bool[np.ndarray, " N"],
        tokens: Int[np.ndarray, "B W"],
        condition: Array | None,
        keys: UInt32[Array, "B 2"],
        settings: Settings,
        strength: float,
    ) -> Float[np.ndarray, "B L D"]:
        """Latents of the moments that are to be made; in a window all others are known: clean frames at delta = 0."""
        frames, left = self.geometry.frames_per_token, made.copy()
        size, overlap = self.window(settings)
        for index, start in enumerate(starts(made, size, overlap)):
            there = slice(start * frames, (start + size) * frames)
            latents[:, there] = self.diffuse(
                tokens[:, start * self.levels : (start + size) * self.levels],
                condition,
                self.loaded.fold_in(keys, index),
                latents[:, there],
                ~left[start : start + size],
                settings,
                strength,
            )
            left[start : start + size] = False
        return latents

    def diffuse(
        self,
        tokens: Int[np.ndarray, "B W"],
        condition: Array | None,
        keys: UInt32[Array, "B 2"],
        latents: Float[np.ndarray, "B L D"],
        known: Bool[np.ndarray, " N"],
        settings: Settings,
        strength: float = 1.0,
    ) -> Float[np.ndarray, "B L D"]:
        """One window: latents of its moments, those of the known ones as they are."""
        mask = np.repeat(known, self.geometry.frames_per_token)
        how = {"steps": settings.steps, "schedule": settings.schedule, "scale": settings.guidance}
        how |= {"clip": settings.clip_latents, "strength": strength, "noise": settings.noise}
        return np.asarray(self.loaded.diffuse(tokens, keys, latents, mask[None], condition, **how))


def _kept(size: int, share: float) -> int:
    """Moments of a window of `size` of which that share stands already; at least one is new."""
    return min(int(size * share), size - 1)
