"""Mixtures: several data sets that give examples at fixed rates. No TensorFlow here.

The position alone decides which data set gives the example, and which of its examples it is. After n examples each data
set has given n times its rate, to within one for every data set in the mixture. Random choices, as in seqio's own
mixtures, would have to be replayed after a restart.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from melody_jax.errors import UserError

_FINEST = 1_000_000


def parse(data: str) -> dict[str, Fraction]:
    """Names of data sets and their rates, which sum to 1: of "mine", "a:0.7,b:0.3", "a:7,b:3".

    Raises:
        UserError: a rate is missing or no positive number, or a name comes twice.
    """
    if ":" not in data and "," not in data:
        return {data: Fraction(1)}
    rates: dict[str, Fraction] = {}
    for item in data.split(","):
        name, _, rate = item.strip().rpartition(":")
        try:
            value = Fraction(rate)
        except (ValueError, ZeroDivisionError):
            value = Fraction(0)
        if not name or name in rates or value <= 0:
            raise UserError(f"--data {data}: expected NAME:RATE,NAME:RATE, every name once and rates above 0")
        rates[name] = value
    return {name: rate / sum(rates.values()) for name, rate in rates.items()}


def whole_numbers(rates: Sequence[float | Fraction]) -> tuple[int, ...]:
    """Whole numbers in the ratio of `rates`, rounded to a millionth of their sum.

    Raises:
        UserError: a rate is less than that.
    """
    total = sum((Fraction(rate) for rate in rates), Fraction(0))
    shares = [round(Fraction(rate) / total * _FINEST) for rate in rates]
    if not all(shares):
        raise UserError(f"a rate of {float(min(rates) / total):g} is less than a millionth of the mixture")
    return tuple(share // math.gcd(*shares) for share in shares)


def deal(positions: np.ndarray, weights: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For each position the data set that gives its example, and the number of the example in that data set.

    One data set after another takes its share of the remaining positions: floor(n w / W) of n.
    """
    which, index = np.zeros_like(positions), np.zeros_like(positions)
    left, rest, open_ = positions, sum(weights), np.ones(positions.shape, bool)
    for number, weight in enumerate(weights):
        before = left * weight // rest
        taken = open_ & ((left + 1) * weight // rest > before)
        which[taken], index[taken] = number, before[taken]
        left, open_, rest = left - before, open_ & ~taken, rest - weight
    return which, index
