"""Sampling: text to music, music to music, with an exported bundle."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from melody_jax.generate.pipeline import Melody
    from melody_jax.generate.result import Cancelled, Progress, Result
    from melody_jax.generate.settings import Settings

__all__ = ["Cancelled", "Melody", "Progress", "Result", "Settings"]

_HOMES = {
    "Cancelled": "result",
    "Melody": "pipeline",
    "Progress": "result",
    "Result": "result",
    "Settings": "settings",
}


def __getattr__(name: str) -> Any:
    """Imported when first used: settings and arguments are checked without jax."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
