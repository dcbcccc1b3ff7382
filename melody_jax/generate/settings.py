"""What a user may choose when sampling, checked before any work is done. Imports no jax: a bad value is said at once."""

import dataclasses
import hashlib
import math
import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from melody_jax.errors import UserError

if TYPE_CHECKING:
    from melody_jax.lm.decode import Sampling

BATCH_SIZE = 16
"""Pieces made, or clips tokenised, at once, unless another number is named."""
LONGEST_SECONDS = 600.0
LOUDNESS = -16.0
"""LUFS, what streaming services bring music to."""

Schedule = Literal["linear", "uniform"]


class Changes(TypedDict, total=False):
    """Fields of `Settings` as keywords."""

    seconds: float
    steps: int
    guidance: float
    schedule: Schedule
    lm_guidance: float
    temperature: float
    top_k: int
    top_p: float
    mulan_levels: int
    clip_latents: float
    noise: float
    window_seconds: float
    overlap: float
    candidates: int
    loudness: float | None


@dataclasses.dataclass(frozen=True)
class Settings:
    """How music is sampled. A bundle may carry other defaults that suit its weights. NumPy's numbers will do.

    Attributes:
      seconds: length of the music; of what is added, where music is continued.
      steps: diffusion steps, T.
      guidance: classifier-free guidance of the diffusion, g; 1 for none.
      schedule: step sizes of the diffusion, "linear" (large steps first) or "uniform".
      lm_guidance: classifier-free guidance of the language model; 1 for none.
      temperature: of the language model; 0 always takes the most likely token.
      top_k: the language model draws from the k most likely tokens; 0 for all.
      top_p: the language model draws from the most likely tokens of this total probability.
      mulan_levels: how many of the MuLan tokens, coarse to fine, condition the language model; 0 for all.
      clip_latents: bound of predicted latents at every step, which lie in [-1, 1]; 0 for none.
      noise: deviation of the noise that diffusion starts from; below 1 rhythm is clearer and sounds are plainer.
      window_seconds: length that the diffusion makes at once, longer music in overlapping windows; 0 for the training
        clip.
      overlap: share of every further window of the diffusion that stands already, and of the language model's if it is more
        than half, which is the least that it goes on from; the publication keeps M - 1 of M chunks.
      candidates: pieces made for each prompt; the one that MuLan hears nearest to the prompt is kept.
      loudness: LUFS that pieces are brought to, peaks staying below -1 dB; none leaves the level alone.

    Raises:
      UserError: a value of another type or out of range.
    """

    seconds: float = 10.0
    steps: int = 20
    guidance: float = 2.5
    schedule: Schedule = "linear"
    lm_guidance: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    mulan_levels: int = 0
    clip_latents: float = 1.0
    noise: float = 1.0
    window_seconds: float = 0.0
    overlap: float = 0.5
    candidates: int = 1
    loudness: float | None = LOUDNESS

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _typed(field.name, field.type, getattr(self, field.name)))
        if not 0 < self.seconds <= LONGEST_SECONDS:
            raise UserError(f"seconds must be more than 0 and at most {LONGEST_SECONDS:g}, got {self.seconds:g}")
        for name, lowest, highest in _RANGES:
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise UserError(f"{name} must be from {lowest:g} to {highest:g}, got {value!r:.40}")
        if self.top_p == 0:
            raise UserError("top_p must be more than 0")
        if self.loudness is not None and not -60 <= self.loudness <= -5:
            raise UserError(f"loudness must be from -60 to -5 LUFS, or none, got {self.loudness:g}")

    @property
    def sampling(self) -> "Sampling":
        """The language model's share."""
        from melody_jax.lm.decode import Sampling

        return Sampling(self.temperature, self.top_k, self.top_p, self.lm_guidance)


# Of what has no bound of its own: the models' numbers have room for it, and for what they make of it.
_MOST = 1e6
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("steps", 1, 1000),
    ("guidance", 0, _MOST),
    ("lm_guidance", 0, _MOST),
    ("temperature", 0, _MOST),
    ("top_k", 0, _MOST),
    ("top_p", 0, 1),
    ("mulan_levels", 0, _MOST),
    ("clip_latents", 0, _MOST),
    ("noise", 0, 1),
    ("window_seconds", 0, LONGEST_SECONDS),
    ("overlap", 0, 0.95),
    ("candidates", 1, 1000),
)


def check_changes(changes: Mapping[str, Any]) -> None:
    """Whether settings may change while music plays: those of windows may not.

    Raises:
      UserError: one of them is among the changes.
    """
    for name in ("window_seconds", "overlap"):
        if name in changes:
            raise UserError(f"{name} cannot change while music plays")


def with_settings(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """`settings` with some fields changed.

    Raises:
      UserError: an unknown field, a value of another type, or one out of range.
    """
    known: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Settings)}
    for name in changes:
        if name not in known:
            raise UserError(f"unknown setting {name!r}; settings are {', '.join(known)}")
    return dataclasses.replace(settings, **{name: _typed(name, known[name], value) for name, value in changes.items()})


def seeds_of(seed: Any, count: int) -> list[int]:
    """One seed for each of `count` pieces.

    A single seed is that of the first piece; the others' are derived from it, so that copies of one prompt are different
    pieces. A seed taken from a `Result` makes that piece alone.

    Raises:
      UserError: not whole numbers from 0 to 2^32 - 1, or not one for each piece.
    """
    if (
        isinstance(seed, Sequence)
        and not isinstance(seed, str)
        or hasattr(seed, "__array__")
        and _dimensions(seed) == 1
    ):
        seeds = [_seed(one) for one in seed]
        if len(seeds) != count:
            raise UserError(f"{len(seeds)} seeds for {count} prompts")
        return seeds
    first = _seed(seed)
    return [first] + [_derived(first, index) for index in range(1, count)]


def _seed(value: Any) -> int:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not 0 <= int(value) < 2**32:
        raise UserError(f"a seed is a whole number of at least 0 and less than 2^32, got {value!r:.40}")
    return int(value)


def _derived(seed: int, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:4], "big")


def _dimensions(value: Any) -> int:
    return getattr(value, "ndim", 0)


def _typed(name: str, kind: Any, value: Any) -> Any:
    """The value as Python's own type; NumPy's numbers are numbers too."""
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = float
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # a whole number beyond all floating point numbers
            return -math.inf if isinstance(value, int) and value < 0 else math.inf
    if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    choices = typing.get_args(kind)
    if value in choices:
        return str(value)
    if choices and isinstance(value, str):
        raise UserError(f"{name} must be one of {', '.join(choices)}, got {value!r:.60}")
    wanted = "str" if choices else kind.__name__
    raise UserError(f"setting {name} must be of type {wanted}, got {value!r:.60}")
