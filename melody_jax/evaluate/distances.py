"""How far made music lies from real music and from its text, by embeddings: needs no truth."""

import numpy as np

from melody_jax.evaluate.estimate import Estimate, mean
from melody_jax.shapes import Float

MAUVE_FEWEST = 20
"""Pieces of each set of which there are two clusters."""


def cycle_consistency(text: Float[np.ndarray, "n E"], music: Float[np.ndarray, "n E"]) -> Estimate:
    """MuLan cycle consistency: the mean cosine of the embeddings of each text and of the music made for it, both of unit norm
    (Agostinelli et al., "MusicLM", 2023, section 5.1)."""
    return mean(np.sum(text * music, axis=1))


def apart(embeddings: Float[np.ndarray, "n E"]) -> Float[np.ndarray, " n"]:
    """Of each piece the mean cosine distance from the others, embeddings of unit norm; not a number for one alone."""
    if len(embeddings) < 2:
        return np.full(len(embeddings), np.nan)
    cosines = embeddings.astype(np.float64) @ embeddings.astype(np.float64).T
    return 1 - (cosines.sum(axis=1) - np.diag(cosines)) / (len(embeddings) - 1)


def frechet(made: Float[np.ndarray, "n E"], real: Float[np.ndarray, "m E"]) -> float:
    """Squared Fréchet distance of the two normal distributions that fit the sets (Kilgour et al., 2019).

    It grows as sets shrink: compare sets of one size, of two pieces at least.
    """
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
    sets of one distribution lie around 0, on either side. Sets are of two pieces at least.
    """
    within_real = _squares(real, real)
    width = np.median(within_real[~np.eye(len(real), dtype=bool)])
    kernels = [np.exp(-d / (2 * max(width, 1e-12))) for d in (_squares(made, made), within_real, _squares(made, real))]
    own = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in kernels[:2]]
    return float(100 * (own[0] + own[1] - 2 * kernels[2].mean()))


def mauve_divergence(made: Float[np.ndarray, "n E"], real: Float[np.ndarray, "m E"]) -> float:
    """MAUVE Audio Divergence: -ln MAUVE (Pillutla et al., 2021), which agreed best with listeners (Huang et al., 2025).

    Both sets are counted in the clusters of their union, unit vectors in as many principal components as hold 90 % of the
    variance, ten pieces a cluster. MAUVE is the area under the curve of exp(-5 KL) of each set from mixtures of both: 1, so
    that the divergence is 0, where clusters hold the same shares. Sets are of MAUVE_FEWEST pieces at least.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    both = np.concatenate([made, real]).astype(np.float64)
    both /= np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)
    both = PCA(0.9, svd_solver="full").fit_transform(both)
    clusters = round(min(len(made), len(real)) / 10)
    labels = KMeans(clusters, n_init=5, max_iter=500, random_state=0).fit_predict(both)  # pyright: ignore[reportArgumentType]
    p, q = (np.bincount(of, minlength=clusters) / len(of) for of in np.split(labels, [len(made)]))
    shares = np.linspace(1e-6, 1 - 1e-6, 25)[:, None]
    mixed = shares * p + (1 - shares) * q
    from_p, from_q = (
        np.exp(-5 * np.sum(np.where(x > 0, x * np.log(np.maximum(x, 1e-300) / mixed), 0.0), axis=1)) for x in (p, q)
    )
    x, y = np.concatenate([[0], from_q, [1]]), np.concatenate([[1], from_p, [0]])
    x, y = np.sort(x), y[np.argsort(x, kind="stable")]
    return float(-np.log(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x))))


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.maximum(np.sum(x**2, 1)[:, None] + np.sum(y**2, 1) - 2 * x @ y.T, 0.0)
