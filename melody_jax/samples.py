"""Sound as 16-bit samples, in data sets, files and memory: the one scale. Imports no jax."""

from typing import Any

import numpy as np

FULL_SCALE = 32768
"""What 1.0 is: a power of two, so that dividing by it is exact in float32."""


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1] as little-endian int16; what is beyond is clipped."""
    return np.clip(np.round(audio.astype(np.float64) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2")


def from_int16(samples: Any) -> Any:
    """int16 samples, of NumPy or JAX, as float32 in [-1, 1)."""
    return samples.astype(np.float32) * np.float32(1 / FULL_SCALE)
