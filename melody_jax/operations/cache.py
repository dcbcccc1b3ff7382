"""Compiled programs, kept from run to run."""

import os
import pathlib

import jax


def keep_programs() -> None:
    """In the user's cache, small ones too, unless JAX_COMPILATION_CACHE_DIR names another place: jax's defaults hold there."""
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "melody_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
