"""How far made music lies from real music and from its text, by MuLan embeddings: needs no truth."""

import numpy as np

from melody_jax.evaluate.estimate import Estimate, mean
from melody_jax.shapes import Float


def text_cosine(text: Float[np.ndarray, "n E"], music: Float[np.ndarray, "n E"]) -> Estimate:
    """Mean cosine of each text and its own music (unit norm)."""
    return mean(np.sum(text * music, axis=1))


def frechet(made: Float[np.ndarray, "n E"], real: Float[np.ndarray, "m E"]) -> float:
    """Squared Fréchet distance of the two normal distributions that fit the sets (Kilgour et al., 2019).

    It grows as sets shrink: compare sets of one size. Not a number below two clips.
    """
    if min(len(made), len(real)) < 2:
        return float("nan")
    first, second = (np.cov(x.astype(np.float64), rowvar=False) for x in (made, real))
    # the trace of the root of a product of covariances, by eigenvalues of a symmetric matrix alone
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    mixed = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0.0)).sum()
    apart = made.mean(0).astype(np.float64) - real.mean(0)
    return float(apart @ apart + np.trace(first) + np.trace(second) - 2 * mixed)


def kernel_distance(made: Float[np.ndarray, "n E"], real: Float[np.ndarray, "m E"]) -> float:
    """Kernel Audio Distance: 100 times the unbiased squared MMD with a Gaussian kernel (Chung et al., 2025).

    The kernel is as wide as the median distance of two real clips. Unlike Fréchet's it does not depend on the sets' sizes;
    sets of one distribution lie around 0, on either side. Not a number below two clips.
    """
    if min(len(made), len(real)) < 2:
        return float("nan")
    within_real = _squares(real, real)
    width = np.median(within_real[~np.eye(len(real), dtype=bool)])
    kernels = [np.exp(-d / (2 * max(width, 1e-12))) for d in (_squares(made, made), within_real, _squares(made, real))]
    own = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in kernels[:2]]
    return float(100 * (own[0] + own[1] - 2 * kernels[2].mean()))


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.maximum(np.sum(x**2, 1)[:, None] + np.sum(y**2, 1) - 2 * x @ y.T, 0.0)
