"""Compiled programs, kept from run to run."""

import os
import pathlib

import jax

from melody_jax import storage
from melody_jax.storage import Path


def keep_programs() -> Path | None:
    """In the user's cache, small ones too, unless JAX_COMPILATION_CACHE_DIR names another place: jax's defaults hold there.

    Returns:
      The folder in it for programs that are found without being traced (`system.programs`); None where
      JAX_ENABLE_COMPILATION_CACHE says that none are kept.
    """
    options = jax.config
    if not options.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        options.update("jax_compilation_cache_dir", str(cache / "melody_jax" / "xla"))
        options.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if not options.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    return storage.path(options.jax_compilation_cache_dir) / "arrows"  # pyright: ignore[reportAttributeAccessIssue]
