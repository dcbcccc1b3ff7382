"""Music that a user gives, to be continued, repainted or varied: checked, and seen as the models see it."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from melody_jax.errors import UserError
from melody_jax.generate.settings import LONGEST_SECONDS
from melody_jax.geometry import Geometry
from melody_jax.shapes import Bool, Float, Int
from melody_jax.system import Loaded


class Given:
    """Tokens and latents of given music, by a bundle's models.

    Raises:
      UserError: there is no semantic encoder among them.
    """

    def __init__(self, loaded: Loaded):
        if "semantic" not in loaded.weights:
            raise UserError(
                "this bundle has no semantic encoder, which continuing, repainting and varying need: export one with it"
            )
        self._loaded = loaded
        self.geometry = loaded.geometry

    def represent(self, audio: Float[np.ndarray, " T"]) -> tuple[Int[np.ndarray, " W"], Float[np.ndarray, "L D"]]:
        """(semantic codes [N R], latents [L, D]) of N moments, the last one filled up with silence.

        Music longer than a clip is seen in clips that overlap by half; a moment is taken from the clip in whose middle it
        lies: the models see less at a clip's ends.
        """
        g = self.geometry
        count = -(-len(audio) // g.token_samples)
        size, half = g.clip_tokens, g.clip_tokens // 2
        places = sorted({*range(0, max(count - size, 0), max(half, 1)), max(count - size, 0)})
        whole = np.pad(audio.astype(np.float32), (0, max(count, size) * g.token_samples - len(audio)))
        tokens, latents = [], []
        for index, place in enumerate(places):
            # up to halfway between this clip's middle and the next one's
            begin = 0 if index == 0 else (places[index - 1] + place + size) // 2
            end = count if index + 1 == len(places) else (place + places[index + 1] + size) // 2
            clip = whole[place * g.token_samples : (place + size) * g.token_samples]
            encoded = self._loaded.represent(clip[None], [()])
            moments, frames = (np.asarray(encoded[name])[0] for name in ("semantic", "latents"))
            moments = moments.reshape(size, -1)[begin - place : end - place]
            tokens.append(moments.reshape(-1).astype(np.int32))
            per_token = g.frames_per_token
            latents.append(frames[(begin - place) * per_token : (end - place) * per_token].astype(np.float32))
        return np.concatenate(tokens), np.concatenate(latents)


def check_audio(audio: Any, geometry: Geometry, what: str = "the music") -> Float[np.ndarray, " T"]:
    """Mono music as float32.

    Raises:
      UserError: it is none, or of a length that nothing can be done with.
    """
    try:
        array = np.asarray(audio)
    except ValueError:
        array = np.zeros(0)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise UserError(f"{what} is not a non-empty mono array of finite numbers")
    if array.dtype.kind != "f":
        raise UserError(f"{what} holds whole numbers; give samples between -1 and 1")
    shortest = geometry.token_samples / geometry.sample_rate
    if not shortest <= len(array) / geometry.sample_rate <= LONGEST_SECONDS:
        raise UserError(f"{what} must last from {shortest:g} to {LONGEST_SECONDS:g} seconds")
    return array.astype(np.float32)


def check_clip(clip: Any, geometry: Geometry, what: str) -> Float[np.ndarray, " T"]:
    """The first clip length of mono music, repeated where it is shorter.

    Raises:
      UserError: it is no music.
    """
    array = np.asarray(clip)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise UserError(f"{what} is not a non-empty mono array of finite numbers")
    return np.resize(array.astype(np.float32), geometry.clip_samples)


def check_spans(spans: Any, samples: int, sample_rate: int) -> list[tuple[int, int]]:
    """Spans (begin, end) in seconds as samples, in order, those that touch joined.

    Raises:
      UserError: no span, one that is no pair of numbers, empty, or outside the music.
    """
    seconds = samples / sample_rate
    try:
        pairs = sorted((float(begin), float(end)) for begin, end in spans)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"spans are pairs of seconds, as in [(2, 4), (7.5, 8)], got {spans!r:.60}") from None
    if not pairs:
        raise UserError("there is no span to repaint")
    found: list[tuple[int, int]] = []
    for begin, end in pairs:
        if not 0 <= begin < end <= seconds + 0.5 / sample_rate:
            raise UserError(f"the span from {begin:g} to {end:g} s is not inside the music, which lasts {seconds:g} s")
        first, last = round(begin * sample_rate), min(round(end * sample_rate), samples)
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        elif last > first:
            found.append((first, last))
    if not found:
        raise UserError("there is no span to repaint: all are shorter than a sample")
    return found


def moments_in(spans: Sequence[tuple[int, int]], count: int, token_samples: int) -> Bool[np.ndarray, " N"]:
    """Which moments the spans (in samples) touch."""
    touched = np.zeros(count, bool)
    for begin, end in spans:
        touched[begin // token_samples : -(-end // token_samples)] = True
    return touched


def redrawn(count: int, strength: float, run: int) -> Bool[np.ndarray, " N"]:
    """A share `strength` of the moments, in stretches of `run`, spread evenly; the first moment is the last to be chosen."""
    golden = (np.arange(-(-count // run)) * 0.6180339887498949 + 0.999) % 1.0
    return np.repeat(golden < strength, run)[:count]


def digest(audio: Float[np.ndarray, " T"]) -> str:
    """sha256 of the samples."""
    return hashlib.sha256(np.ascontiguousarray(audio, "<f4").tobytes()).hexdigest()
