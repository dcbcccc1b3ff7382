"""Endless music, chunk by chunk, in memory that does not grow."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from melody_jax.codes.controls import Controls
from melody_jax.errors import UserError
from melody_jax.generate.compose import Composer, Row
from melody_jax.generate.loudness import faded, limiter_gain, limiter_reach, lufs
from melody_jax.generate.prompts import check_prompts
from melody_jax.generate.settings import Settings, check_changes, with_settings
from melody_jax.generate.splice import JOINT_SECONDS
from melody_jax.shapes import Array, Float

_FOLLOWS = 0.3
"""Share of the way that the level follows the loudness of a new chunk."""


class Stream(Iterator[Float[np.ndarray, " T"]]):
    """Music without an end: `for chunk in stream` gives arrays [T] float32 that follow each other without a seam.

    A chunk is what one window of the diffusion adds to the one before it. The language model goes on from the last tokens,
    the diffusion from the last latents, and the decoder sees some of what comes before and after all that is heard; so a
    chunk holds what was decided a moment before. The level follows the loudness of the music slowly.

    Attributes:
      prompt: what is played now.
      settings: how.
      seconds: how much has been given so far.
    """

    def __init__(
        self,
        composer: Composer,
        settings: Settings,
        prompt: str,
        negative: str | None,
        seed: int,
        controls: Controls | None,
        codes: Callable[[str, Controls | None], np.ndarray | None],
    ):
        self._composer, self._geometry = composer, composer.geometry
        self.settings, self.prompt, self._negative, self._seed = settings, prompt, negative, seed
        self.seconds = 0.0
        self._fixed, self._codes = controls, codes
        self._key = composer.loaded.row_keys([seed], [0])
        self._index = 0
        self._tokens = np.zeros((1, 0), np.int32)
        self._asked: list[int] = []  # codes of the controls
        self._drawn = 0  # moments that have tokens under these controls
        self._latents = np.zeros((1, 0, self._geometry.latent_channels), np.float32)
        self._joint, self._past = np.zeros(0, np.float32), np.zeros(0, np.float32)
        self._condition, self._away = self._conditions(codes(prompt, controls))
        self._finish = _Finish(settings.loudness, self._geometry.sample_rate)

    def __iter__(self) -> "Stream":
        return self

    def until(self, seconds: float) -> Iterator[Float[np.ndarray, " T"]]:
        """The next chunks, as long together as `seconds`; the last one is cut."""
        left = seconds * self._geometry.sample_rate
        while left > 0:
            chunk = next(self)
            chunk = chunk[: int(min(left, len(chunk)))]
            yield chunk
            left -= max(len(chunk), 1)

    def change(
        self,
        prompt: str | None = None,
        *,
        negative: str | None = None,
        controls: Controls | None = None,
        **changes: Any,
    ) -> None:
        """From the next chunk on, another prompt, another negative one, or other settings (but not those of windows).

        Args:
          controls: all that is fixed from now on, `Controls()` for nothing; what was fixed stays if None.

        Raises:
          UserError: an empty prompt or a bad setting; the music then goes on as it was.
        """
        check_changes(changes)
        settings = with_settings(self.settings, changes)
        wanted = self.prompt if prompt is None else prompt
        away = self._negative if negative is None else negative
        check_prompts([text for text in (wanted, away) if text is not None])
        if away is not None and settings.lm_guidance == 1:
            raise UserError("a negative prompt needs lm_guidance above 1: guidance leads away from it")
        fixed = self._fixed if controls is None else controls
        codes = self._codes(wanted, fixed)
        self.settings, self.prompt, self._negative, self._fixed = settings, wanted, away, fixed
        self._finish.target = settings.loudness
        self._condition, self._away = self._conditions(codes)

    def __next__(self) -> Float[np.ndarray, " T"]:
        composer, g = self._composer, self._geometry
        size, overlap = composer.window(self.settings)
        known = self._latents.shape[1] // g.frames_per_token
        fresh = size - known
        drawn = self._draw(fresh)
        keys = composer.loaded.fold_in(self._key, 2 * self._index + 1)
        frames = g.frames_per_token
        latents = np.pad(self._latents, ((0, 0), (0, fresh * frames), (0, 0)))
        tokens = np.concatenate([self._window_tokens(known), drawn], axis=1)
        made = composer.diffuse(tokens, self._condition, keys, latents, np.arange(size) < known, self.settings)
        audio = self._decoded(made, known)
        self._latents = made[:, (size - overlap) * frames :] if overlap else made[:, :0]
        self._index += 1
        chunk = self._finish(audio)
        self.seconds += len(chunk) / g.sample_rate
        return chunk

    def _draw(self, moments: int) -> np.ndarray:
        """Tokens [1, W] of that many new moments; as many of them as the next chunks need are remembered."""
        composer, levels = self._composer, self._composer.levels
        sequence, most = composer.sequence(self.settings)
        fold_in = composer.loaded.fold_in
        tokens, done, index = self._tokens, 0, 0
        while done < moments:
            earlier = min(tokens.shape[1] // levels, most)
            length = min(sequence - earlier, moments - done)
            keys = fold_in(fold_in(self._key, 2 * self._index), index)
            context = tokens[:, tokens.shape[1] - earlier * levels :]
            condition = composer.loaded.later(self._condition, self._drawn - earlier)
            drawn = composer.loaded.write_tokens(
                condition, context, keys, length * levels, self.settings.sampling, self._away
            )
            tokens = np.concatenate([tokens, np.asarray(drawn)], axis=1)
            done, index, self._drawn = done + length, index + 1, self._drawn + length
        window, overlap = composer.window(self.settings)
        self._tokens = tokens[:, -max(most, window, overlap) * levels :]
        return tokens[:, tokens.shape[1] - moments * levels :]

    def _window_tokens(self, known: int) -> np.ndarray:
        """Tokens of the moments whose latents stand; those of the new ones follow them in what is remembered."""
        levels = self._composer.levels
        size = self._composer.window(self.settings)[0]
        end = self._tokens.shape[1] - (size - known) * levels
        return self._tokens[:, end - known * levels : end]

    def _decoded(self, latents: Float[np.ndarray, "1 L D"], known: int) -> Float[np.ndarray, " T"]:
        """What of a window is heard next: from where the one before ended to a margin before this one's end.

        The margin lets the decoder see what follows. The two windows' sound of the same frames cross-fades at the joint.
        """
        g = self._geometry
        length = latents.shape[1] * g.hop
        past = np.pad(self._past, (0, length - len(self._past)))[None]
        audio = np.array(self._composer.loaded.decode(latents, past, np.arange(length) < len(self._past)))[0]
        overlap = self._composer.window(self.settings)[1]
        behind = min(overlap, max(1, round(g.token_rate / 2)))
        begin = (known - behind) * g.token_samples if known else 0
        end = length - behind * g.token_samples
        ramp = np.linspace(0.0, 1.0, len(self._joint), dtype=np.float32)
        audio[begin : begin + len(ramp)] = (1 - ramp) * self._joint + ramp * audio[begin : begin + len(ramp)]
        joint = min(behind * g.token_samples, round(JOINT_SECONDS * g.sample_rate))
        self._past = audio[length - overlap * g.token_samples : end + joint] if overlap else audio[:0]
        self._joint = audio[end : end + min(behind * g.token_samples, round(JOINT_SECONDS * g.sample_rate))]
        return audio[begin:end]

    def _conditions(self, codes: np.ndarray | None) -> tuple[Array, Array | None]:
        composer, away = self._composer, None
        asked = [] if codes is None else codes.tolist()
        if asked != self._asked:  # other controls begin with a bar of their own
            self._asked, self._drawn = asked, 0
        row = Row(self.prompt, self._seed, 1, controls=codes)
        wanted, _ = composer.condition(composer.embed([self.prompt]), [row], self.settings)
        if self._negative is not None:
            row = Row(self._negative, self._seed, 1)
            away, _ = composer.condition(composer.embed([self._negative]), [row], self.settings)
        return wanted, away


class _Finish:
    """Level and limiter of music that never ends; what it gives is a little behind what it gets."""

    def __init__(self, target: float | None, sample_rate: int):
        self.target = target
        self._rate, self._reach = sample_rate, limiter_reach(sample_rate)
        self._measured: float | None = None
        self._gain: float | None = None
        self._held = np.zeros(0, np.float32)
        self._before = 0  # samples of `held` that were given already

    def __call__(self, chunk: Float[np.ndarray, " T"]) -> Float[np.ndarray, " given"]:
        start = self._gain
        end = self._level(chunk)
        first = start is None
        ramp = np.linspace(end if first else start, end, len(chunk), dtype=np.float32)
        self._gain = end
        chunk = faded(chunk, self._rate, True, False) if first else chunk
        self._held = np.concatenate([self._held, ramp * chunk])
        limited = self._held * limiter_gain(self._held, self._rate) if self.target is not None else self._held
        ready = max(self._before, len(self._held) - self._reach)
        given = limited[self._before : ready].astype(np.float32)
        kept = max(0, ready - self._reach)
        self._held, self._before = self._held[kept:], ready - kept
        return given if self.target is not None else np.clip(given, -1.0, 1.0)

    def _level(self, chunk: np.ndarray) -> float:
        if self.target is None:
            return 1.0
        loudness = lufs(chunk, self._rate)
        if loudness == -math.inf:
            return self._gain or 1.0
        before = self._measured
        self._measured = loudness if before is None else before + _FOLLOWS * (loudness - before)
        return float(np.clip(10.0 ** ((self.target - self._measured) / 20), 0.01, 100.0))
