"""Ranges that a binding's values are drawn from; a plain list of values stands for itself."""

import dataclasses
import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

from melody_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Real numbers in [low, high], all equally likely.

    Raises:
      UserError: the ends are no finite numbers in ascending order.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        ends = (self.low, self.high)
        numbers = all(isinstance(end, (int, float)) and math.isfinite(end) for end in ends)
        if not numbers or self.low >= self.high:
            raise UserError(f"{type(self).__name__}: low {self.low!r} must be a number below high {self.high!r}")

    def draw(self, rng: random.Random) -> float | int:
        """A value of the range."""
        return rng.uniform(self.low, self.high)


@dataclasses.dataclass(frozen=True)
class LogUniform(Uniform):
    """Positive real numbers in [low, high] whose logarithms are equally likely."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low <= 0:
            raise UserError(f"LogUniform: low must be above 0, got {self.low!r}")

    def draw(self, rng: random.Random) -> float:
        """A value of the range."""
        return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))


@dataclasses.dataclass(frozen=True)
class Integer(Uniform):
    """Whole numbers from low to high, both included, all equally likely."""

    low: int
    high: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.low, int) and isinstance(self.high, int)):
            raise UserError(f"Integer: {self.low!r} and {self.high!r} must be whole numbers")

    def draw(self, rng: random.Random) -> int:
        """A value of the range."""
        return rng.randint(self.low, self.high)


Values = Uniform | Sequence[Any]
"""What a binding may be: a range, or the values themselves."""


def extremes(values: Values) -> list[Any]:
    """Values that stand for all of them when a configuration is tried: both ends of a range, a whole list."""
    return [values.low, values.high] if isinstance(values, Uniform) else list(values)


def size(space: Iterable[Values]) -> float:
    """How many different combinations there are, infinity where a range is one of real numbers."""
    counts = (
        values.high - values.low + 1
        if isinstance(values, Integer)
        else math.inf
        if isinstance(values, Uniform)
        else len(set(map(text, values)))
        for values in space
    )
    return float(math.prod(counts))


def text(value: Any) -> str:
    """A value as gin reads it; strings that begin with @ or % are references and macros."""
    return value if isinstance(value, str) and value.startswith(("@", "%")) else repr(value)
