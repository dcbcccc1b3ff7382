"""Sampling: text to music, music to music, with an exported bundle."""

from melody_jax.generate.pipeline import Melody, Result
from melody_jax.generate.settings import Settings

__all__ = ["Melody", "Result", "Settings"]
