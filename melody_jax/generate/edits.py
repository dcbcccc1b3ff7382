"""What is done to given music: what of it stands, what is made anew, and how the two become one piece."""

import dataclasses

import numpy as np

from melody_jax.generate.compose import Known
from melody_jax.generate.given import Given, check_spans, moments_in, redrawn
from melody_jax.generate.loudness import faded, limited, mastered
from melody_jax.generate.splice import JOINT_SECONDS, levelled, spliced
from melody_jax.generate.work import Finish
from melody_jax.geometry import Geometry
from melody_jax.shapes import Bool, Float, Int

Audio = Float[np.ndarray, " _"]  # lengths come and go


@dataclasses.dataclass(frozen=True)
class Edit:
    """One piece of given music, about to be changed.

    Attributes:
      known: what stands of it, and what is made anew.
      finish: makes the piece of what the decoder gives.
      resembled: the clip that stands for a prompt where there is none; longer ones are cut, shorter ones repeated.
    """

    known: Known
    finish: Finish
    resembled: Audio


def continued(given: Given, piece: Audio, seconds: float) -> Edit:
    """Music that goes on for `seconds`; the models see its last clip length."""
    g = given.geometry
    rate, fresh, added = g.sample_rate, g.tokens_in(seconds), max(1, round(seconds * g.sample_rate))
    context = min(len(piece) // g.token_samples, g.clip_tokens)
    seen = context * g.token_samples
    start = len(piece) - seen
    tokens, latents = given.represent(piece[start:])
    new = np.arange(context + fresh) >= context
    spans = [(max(0, seen - round(JOINT_SECONDS * rate)), seen + added)]
    known = _known(g, tokens, latents, new, piece[start:], since=start / rate)

    def finish(made: Audio) -> tuple[Audio, None]:
        whole = _repainted(piece[start:], made[: seen + added], spans, rate)
        return faded(np.concatenate([piece[:start], whole]), rate, False, True), None

    return Edit(known, finish, piece[-g.clip_samples :])


def repainted(given: Given, piece: Audio, seconds: list[tuple[float, float]]) -> Edit:
    """Music whose spans (begin, end) in seconds are made anew."""
    g = given.geometry
    rate, spans = g.sample_rate, check_spans(seconds, len(piece), g.sample_rate)
    tokens, latents = given.represent(piece)
    new = moments_in(spans, len(latents) // g.frames_per_token, g.token_samples)
    known = _known(g, tokens, latents, new, piece)

    def finish(made: Audio) -> tuple[Audio, None]:
        whole = _repainted(piece, made[: len(piece)], spans, rate)
        return faded(whole, rate, spans[0][0] == 0, spans[-1][1] == len(piece)), None

    middle = sum(spans[0]) // 2
    around = max(0, min(middle - g.clip_samples // 2, len(piece) - g.clip_samples))
    return Edit(known, finish, piece[around:])


def varied(given: Given, piece: Audio, strength: float, loudness: float | None) -> Edit:
    """Music of which a share `strength` of the tokens is drawn anew, and all of the sound, from that far to noise."""
    g = given.geometry
    tokens, latents = given.represent(piece)
    count = len(latents) // g.frames_per_token
    drawn = redrawn(count, strength, max(1, round(g.token_rate)))

    def finish(made: Audio) -> tuple[Audio, tuple[float, float] | None]:
        return mastered(made[: len(piece)], g.sample_rate, loudness)

    return Edit(Known(tokens, latents, drawn, np.ones(count, bool), strength=strength), finish, piece)


def _known(
    g: Geometry,
    tokens: Int[np.ndarray, " W"],
    latents: Float[np.ndarray, "L D"],
    new: Bool[np.ndarray, " N"],
    audio: Audio,
    since: float = 0.0,
) -> Known:
    """Music with room for what is to come behind it."""
    tokens = np.pad(tokens, (0, len(new) * g.semantic_levels - len(tokens)))
    latents = np.pad(latents, ((0, len(new) * g.frames_per_token - len(latents)), (0, 0)))
    audio = np.pad(audio, (0, len(new) * g.token_samples - len(audio)))
    return Known(tokens, latents, new, new, audio, since=since)


def _repainted(old: Audio, made: Audio, spans: list[tuple[int, int]], sample_rate: int) -> Audio:
    """New spans in old music."""
    return spliced(old, limited(levelled(old, made, spans, sample_rate), sample_rate), spans, sample_rate)
