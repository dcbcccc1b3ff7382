"""First and second moments of latents, over time too: what a diffusion model's preconditioning needs of them."""

from collections.abc import Mapping

import numpy as np

from melody_jax.shapes import Float


def sums(latents: Float[np.ndarray, "B L D"], lags: int) -> dict[str, np.ndarray]:
    """Sums over the pairs of frames 0 .. lags - 1 apart, float64; those of several batches may be added up."""
    x = np.asarray(latents, np.float64)
    lengths = [x.shape[1] - lag for lag in range(lags)]
    pairs = [(x[:, :length], x[:, lag:]) for lag, length in enumerate(lengths)]
    return {
        "pairs": np.array([max(x.shape[0] * length, 0) for length in lengths], np.float64),
        "first": np.stack([a.sum((0, 1)) for a, _ in pairs]),
        "second": np.stack([b.sum((0, 1)) for _, b in pairs]),
        "products": np.stack([np.einsum("bti,btj->ij", a, b) for a, b in pairs]),
    }


def moments(total: Mapping[str, np.ndarray], scale: float) -> dict[str, Float[np.ndarray, "..."]]:
    """{mean [D], autocovariance [J, D, D]} of latents * `scale` from the summed `sums`, float32.

    autocovariance[j] = E[(z_t - mean) (z_{t + j} - mean)^T], the means being those of the very frames paired.
    """
    pairs = np.maximum(total["pairs"], 1)[:, None]
    first, second = total["first"] / pairs, total["second"] / pairs
    covariance = total["products"] / pairs[..., None] - first[:, :, None] * second[:, None, :]
    return {"mean": (first[0] * scale).astype(np.float32), "autocovariance": (covariance * scale**2).astype(np.float32)}
