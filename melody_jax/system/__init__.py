"""The whole system: pure functions, one for each arrow of its figure (`system.py`), and weights on chips (`loaded.py`)."""

from melody_jax.system.loaded import Loaded
from melody_jax.system.system import System

__all__ = ["Loaded", "System"]
