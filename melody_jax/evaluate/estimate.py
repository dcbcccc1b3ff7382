"""A figure and how sure it is."""

import dataclasses

import numpy as np

DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over clips with its 95 % interval.

    Attributes:
      value: the mean; not a number where nothing could be measured.
      low, high: 2.5 and 97.5 % points of the mean over clips drawn again with replacement (bootstrap); for shares of
        whole clips (values 0 and 1) Wilson's interval, which holds for few clips too.
      clips: how many clips say something.
    """

    value: float
    low: float
    high: float
    clips: int

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends; not finite where one clip or none says something."""
        return self.low, self.high

    def __str__(self) -> str:
        if not self.clips:
            return "-"
        if self.clips == 1:
            return f"{self.value:.3f} (one clip)"
        return f"{self.value:.3f} ({self.low:.2f} to {self.high:.2f})"


NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0)


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> Estimate:
    """Weighted mean of one value for each clip; clips without weight or without a finite value are left out."""
    values = np.asarray(values, np.float64)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    heard = np.isfinite(values) & (weights > 0)
    values, weights = values[heard], weights[heard]
    if not len(values):
        return NOTHING
    value = float(np.average(values, weights=weights))
    if np.isin(values, (0.0, 1.0)).all() and np.ptp(weights) == 0:
        low, high = wilson(value, len(values))
    elif len(values) == 1:
        low, high = float("-inf"), float("inf")  # one clip says nothing of others
    else:
        chosen = np.random.default_rng(0).integers(0, len(values), (DRAWS, len(values)))
        means = np.sum(values[chosen] * weights[chosen], 1) / np.sum(weights[chosen], 1)
        low, high = (float(x) for x in np.percentile(means, [2.5, 97.5]))
    return Estimate(value, low, high, len(values))


def whole_mean(values: np.ndarray, weights: np.ndarray | None = None) -> Estimate:
    """`mean` of what must be a number for every clip: not a number where one of them is none, as a broken model's is."""
    return mean(values, weights) if np.isfinite(values).all() else NOTHING


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, 1927), 95 %."""
    z = 1.96
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return float(centre - half), float(centre + half)
