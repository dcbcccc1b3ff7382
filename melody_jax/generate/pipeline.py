"""From sentences, or from music, to music."""

import dataclasses
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from melody_jax.bundle.bundle import Bundle
from melody_jax.errors import UserError
from melody_jax.generate.host import Host
from melody_jax.generate.models import Models, fold_in
from melody_jax.generate.settings import Settings
from melody_jax.generate.windows import Windows, cover
from melody_jax.shapes import Array, Float, Int, UInt32


@dataclasses.dataclass(frozen=True)
class Result:
    """One piece of music.

    Attributes:
      prompt: the sentence, or "" where music was the prompt.
      audio: [T] float32 in [-1, 1], T = seconds * sample_rate; scaled down where it would be louder.
      sample_rate: Hz.
      mulan: [Q] MuLan codes of the prompt.
      tokens: [N] semantic codes.
      latent_frames: L.
      settings: how it was sampled.
      seed: of this piece.
      times: seconds of work by step, for the whole batch that this piece was made in; the first use of a shape includes
        its compilation.
      batch: number of pieces in that batch.
      similarity: cosine of the MuLan embeddings of prompt and music, where it was the best of several candidates.
    """

    prompt: str
    audio: Float[np.ndarray, " T"]
    sample_rate: int
    mulan: Int[np.ndarray, " Q"]
    tokens: Int[np.ndarray, " N"]
    latent_frames: int
    settings: Settings
    seed: int
    times: dict[str, float]
    batch: int
    similarity: float | None = None


class Melody:
    """A bundle that makes music, on all accelerators of this host.

    Args:
      devices: on these ones.

    Attributes:
      bundle: what it was loaded from.
      defaults: settings where the caller chooses none; the bundle may carry its own.
    """

    def __init__(self, bundle: Bundle, devices: Sequence[Any] | None = None):
        self.bundle = bundle
        self.defaults = with_settings(Settings(), bundle.sampling)
        self._host = Host(devices)
        self._models = Models(bundle, self._host)

    @classmethod
    def load(cls, directory: str | os.PathLike, devices: Sequence[Any] | None = None) -> "Melody":
        """Loads a bundle.

        Args:
          directory: its folder.
          devices: see the class.

        Raises:
          UserError: it is missing, damaged, or its parts do not belong together.
        """
        return cls(Bundle.load(directory), devices)

    def generate(
        self,
        prompts: Sequence[str] | None = None,
        *,
        audio: Sequence[np.ndarray] | None = None,
        seed: int | Sequence[int] = 0,
        batch_size: int = 16,
        progress: bool = False,
        **settings: Any,
    ) -> list[Result]:
        """Music for each prompt, in their order.

        What a prompt becomes depends on its seed and the settings, not on the other prompts (up to rounding: products
        of another batch size may round differently).

        Args:
          prompts: sentences.
          audio: instead of sentences, music to resemble: mono float arrays at the bundle's sample rate. The first clip
            length counts; shorter ones are repeated to that length.
          seed: one for all prompts, or one per prompt.
          batch_size: how many prompts are worked on at once; as many on every chip.
          progress: whether a bar on stderr shows the work done and the time left.
          **settings: any field of `Settings`: seconds, steps, guidance, temperature, ...

        Raises:
          UserError: no prompt, an empty one, or a bad setting.
        """
        chosen = with_settings(self.defaults, settings)
        names, source = self._sources(prompts, audio)
        seeds = [int(seed)] * len(names) if isinstance(seed, (int, np.integer)) else [int(s) for s in seed]
        if len(seeds) != len(names):
            raise UserError(f"{len(seeds)} seeds for {len(names)} prompts")
        if any(not 0 <= s < 2**32 for s in seeds):
            raise UserError("a seed is a whole number of at least 0 and less than 2^32")
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        results: list[Result] = []
        size = self._host.filled(min(batch_size, len(names)))
        starts = range(0, len(names), size)
        laps = len(starts) * _laps(chosen)
        with tqdm.tqdm(total=laps, desc="sampling", unit="step", disable=not progress) as bar:
            for start in starts:
                rows = list(range(start, min(start + size, len(names))))
                # filled up for chips without a row, and the last batch of several so that it needs no program of its own
                filled = rows + rows[-1:] * (size - len(rows))
                batch = self._batch([source[i] for i in filled], [seeds[i] for i in filled], chosen, bar)
                for row, i in enumerate(rows):
                    results.append(self._result(batch, row, names[i], seeds[i], chosen, len(filled)))
        return results

    def perform(
        self, tokens: Int[np.ndarray, "n W"], *, seed: int = 0, batch_size: int = 16, progress: bool = False, **settings
    ) -> Float[np.ndarray, "n T"]:
        """Music of given semantic tokens, those of whole training clips: what diffusion and decoder make of them.

        Args:
          tokens: as `Representations.encode` gives them.
          seed: of the first row; the others count on.
          batch_size: how many rows are worked on at once.
          progress: whether a bar on stderr shows the work done and the time left.
          **settings: any field of `Settings` but seconds.
        """
        chosen = with_settings(self.defaults, {**settings, "seconds": self.bundle.geometry.clip_seconds})
        diffusion, _ = self._windows(self.bundle.geometry.clip_tokens, chosen)
        size = self._host.filled(min(batch_size, len(tokens)))
        each = self.bundle.geometry.semantic_levels
        beyond = max(0, diffusion.total - self.bundle.geometry.clip_tokens)  # where windows reach past the clip's end
        tokens = np.concatenate([tokens, np.tile(tokens[:, -each:], (1, beyond))], axis=1)

        def play(rows: Int[np.ndarray, " B"], clock: "_Clock") -> Float[np.ndarray, "B T"]:
            keys = jnp.stack([jax.random.PRNGKey(seed + int(row)) for row in rows])
            return self._play(self._host.rows(tokens[rows]), keys, diffusion, chosen, clock)

        return self._in_batches(play, len(tokens), size, 2, progress)

    def decode(self, latents: Float[np.ndarray, "n L D"], *, batch_size: int = 16) -> np.ndarray:
        """Waveforms [n, T] of latents by the decoder that sampling uses."""
        size = self._host.filled(min(batch_size, len(latents)))

        def play(rows: Int[np.ndarray, " B"], clock: "_Clock") -> Float[np.ndarray, "B T"]:
            audio = self._models.audio(self._host.rows(latents[rows].astype(np.float32)))
            clock.lap("decoder", audio)
            return np.asarray(audio)

        return self._in_batches(play, len(latents), size, 1, False)

    def _in_batches(self, work, count: int, size: int, laps: int, progress: bool) -> np.ndarray:
        """`work(rows, clock)` for batches of `size` of `count` rows, the last one filled up; its results, row by row."""
        made = []
        with tqdm.tqdm(total=-(-count // size) * laps, desc="sampling", unit="step", disable=not progress) as bar:
            for start in range(0, count, size):
                rows = np.minimum(np.arange(start, start + size), count - 1)
                made.append(work(rows, _Clock(bar))[: count - start])
        return np.concatenate(made)

    def _sources(
        self, prompts: Sequence[str] | None, audio: Sequence[np.ndarray] | None
    ) -> tuple[list[str], list[str] | list[np.ndarray]]:
        """Checked prompts: (names, what the MuLan codes are made from)."""
        if (prompts is None) == (audio is None):
            raise UserError("give either sentences (prompts) or music (audio)")
        if isinstance(prompts, str):
            raise UserError("prompts is a list of sentences, not one sentence")
        if prompts is not None:
            if not prompts:
                raise UserError("there is no prompt")
            empty = [i for i, prompt in enumerate(prompts) if not isinstance(prompt, str) or not prompt.strip()]
            if empty:
                raise UserError(f"prompt {empty[0] + 1} of {len(prompts)} is empty")
            return list(prompts), list(prompts)
        clips = [self._clip(np.asarray(clip), i) for i, clip in enumerate(audio or ())]
        if not clips:
            raise UserError("there is no music prompt")
        return [""] * len(clips), clips

    def _clip(self, clip: np.ndarray, index: int) -> np.ndarray:
        if clip.ndim != 1 or clip.size == 0 or not np.isfinite(clip).all():
            raise UserError(f"music prompt {index + 1} is not a non-empty mono array of finite numbers")
        return np.resize(clip.astype(np.float32), self.bundle.geometry.clip_samples)

    def _batch(self, source: list[Any], seeds: list[int], settings: Settings, bar: tqdm.tqdm) -> dict[str, Any]:
        """Arrays of a whole batch on the host, and the times."""
        models, clock = self._models, _Clock(bar)
        keys = jnp.stack([jax.random.PRNGKey(seed) for seed in seeds])
        prompt = models.embed_text(source) if isinstance(source[0], str) else models.embed_music(np.stack(source))
        mulan = models.mulan_codes(prompt)
        clock.lap("prompt", mulan)
        best = self._pieces(mulan, keys, settings, clock)
        if settings.candidates > 1:
            best["similarity"] = self._similarity(prompt, best["audio"], clock)
        for candidate in range(1, settings.candidates):
            made = self._pieces(mulan, fold_in(keys, 1 + candidate), settings, clock)
            made["similarity"] = self._similarity(prompt, made["audio"], clock)
            nearer = made["similarity"] > best["similarity"]
            for name, array in best.items():
                array[nearer] = made[name][nearer]
        frames = self.bundle.geometry.tokens_in(settings.seconds) * self.bundle.geometry.frames_per_token
        return {"mulan": np.asarray(mulan), **best, "latent_frames": frames, "times": clock.times}

    def _pieces(
        self, mulan: Int[Array, "B Q"], keys: UInt32[Array, "B 2"], settings: Settings, clock: "_Clock"
    ) -> dict[str, np.ndarray]:
        """One piece per row: its tokens and its audio, scaled down where it is too loud."""
        geometry, models = self.bundle.geometry, self._models
        count = geometry.tokens_in(settings.seconds)
        diffusion, language = self._windows(count, settings)
        tokens = models.tokens(mulan, fold_in(keys, 0), language, settings.sampling, settings.mulan_levels)
        clock.lap("language model", tokens)
        audio = self._play(tokens, keys, diffusion, settings, clock)
        return {"tokens": np.array(tokens[:, : count * geometry.semantic_levels]), "audio": audio}

    def _play(
        self,
        tokens: Int[Array, "B W"],
        keys: UInt32[Array, "B 2"],
        diffusion: Windows,
        settings: Settings,
        clock: "_Clock",
    ) -> Float[np.ndarray, "B T"]:
        """Diffusion and decoder: the music of semantic tokens, scaled down where it is too loud."""
        geometry, models = self.bundle.geometry, self._models
        latents = models.latents(
            tokens[:, : diffusion.total * geometry.semantic_levels],
            fold_in(keys, 1),
            diffusion,
            settings.steps,
            settings.schedule,
            float(settings.guidance),
            float(settings.clip_latents),
        )[:, : geometry.tokens_in(settings.seconds) * geometry.frames_per_token]
        clock.lap("diffusion", latents)
        audio = models.audio(latents)
        clock.lap("decoder", audio)
        host = jax.device_get(audio)[:, : max(1, round(settings.seconds * geometry.sample_rate))]
        peak = np.abs(host).max(axis=1, keepdims=True)
        return (host / np.maximum(peak, 1.0)).astype(np.float32)

    def _similarity(
        self, prompt: Float[Array, "B E"], audio: Float[np.ndarray, "B T"], clock: "_Clock"
    ) -> Float[np.ndarray, " B"]:
        """Cosine of the MuLan embeddings of prompts and music, the mean over whole clips; shorter music is repeated."""
        size = self.bundle.geometry.clip_samples
        if audio.shape[1] < size:
            audio = np.stack([np.resize(row, size) for row in audio])
        starts = range(0, audio.shape[1] - size + 1, size)
        cosines = [jnp.sum(prompt * self._models.embed_music(audio[:, at : at + size]), axis=1) for at in starts]
        clock.lap("choice", cosines[-1])
        return np.mean(cosines, axis=0)

    def _windows(self, count: int, settings: Settings) -> tuple[Windows, Windows]:
        """(of the diffusion, of the language model), in tokens; the latter reach at least as far as the former."""
        geometry = self.bundle.geometry
        size = geometry.tokens_in(settings.window_seconds) or geometry.clip_tokens
        size = max(size, 2)
        diffusion = cover(count, size, size // 2)
        sequence = self._models.lm_config.window or geometry.clip_tokens
        return diffusion, cover(diffusion.total, sequence, sequence // 2)

    def _result(self, batch: dict[str, Any], row: int, prompt: str, seed: int, settings: Settings, rows: int) -> Result:
        return Result(
            prompt=prompt,
            audio=batch["audio"][row],
            sample_rate=self.bundle.geometry.sample_rate,
            mulan=batch["mulan"][row],
            tokens=batch["tokens"][row],
            latent_frames=batch["latent_frames"],
            settings=settings,
            seed=seed,
            times=dict(batch["times"]),
            batch=rows,
            similarity=float(batch["similarity"][row]) if "similarity" in batch else None,
        )


def with_settings(settings: Settings, changes: dict[str, Any]) -> Settings:
    """`settings` with some fields changed.

    Raises:
      UserError: an unknown field, a value of another type, or one out of range.
    """
    known: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Settings)}
    for name, value in changes.items():
        if name not in known:
            raise UserError(f"unknown setting {name!r}; settings are {', '.join(known)}")
        wanted = {float: (int, float), int: (int,), str: (str,)}[known[name]]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise UserError(f"setting {name} must be of type {known[name].__name__}, got {value!r}")
    return dataclasses.replace(settings, **{name: known[name](value) for name, value in changes.items()})


def _laps(settings: Settings) -> int:
    """How often `_Clock.lap` is called for a batch."""
    return 1 + settings.candidates * (3 if settings.candidates == 1 else 4)


class _Clock:
    """Seconds from lap to lap by step of the work, each lap ending when its array is there."""

    def __init__(self, bar: tqdm.tqdm):
        self._bar = bar
        self.times: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str, array: Array) -> None:
        jax.block_until_ready(array)
        now = time.perf_counter()
        self.times[name] = self.times.get(name, 0.0) + now - self._last
        self._last = now
        self._bar.update()
