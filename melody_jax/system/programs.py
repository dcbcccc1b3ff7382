"""Compiled arrows, kept in a folder: a later process runs what an earlier one compiled, without tracing it again."""

import functools
import hashlib
import importlib.metadata
import logging
import os
import pathlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

import melody_jax
from melody_jax import precompiled
from melody_jax.storage import Path

_LOG = logging.getLogger(__name__)


class Programs:
    """Finds the executable of an arrow by all that it follows from.

    That is the source of this package, the versions of jax and flax, jax's options, the compiler's flags, the processor, the
    system's configs, the arrow's name, and what it is called with: fixed values, and the tree, shapes, dtypes and places of
    the arrays. Arrows that a program has replaced at run time are not told apart: give them another folder, or none.

    Args:
      directory: where they are kept; it may be deleted at any time.
      made_of: configs and geometry of the system.
      devices: that it runs on.
    """

    def __init__(self, directory: Path, made_of: Any, devices: Sequence[Any]):
        self._directory, self._devices = directory, devices
        self._system = _source(), importlib.metadata.version("flax"), _processor(), repr(made_of)

    def executable(self, name: str, program: Any, arguments: Sequence[Any], fixed: Mapping[str, Any]) -> Any:
        """The `jax.stages.Compiled` of an arrow for these arguments: kept before, or compiled now and kept.

        Args:
          name: of the arrow.
          program: the arrow under `jax.jit`.
          arguments: arrays, or trees of them.
          fixed: keyword arguments, which are part of the program.
        """
        options = sorted(jax.config.values.items()), os.environ.get("XLA_FLAGS")  # pyright: ignore[reportAttributeAccessIssue]
        text = repr((self._system, options, name, sorted(fixed.items()), signature(arguments)))
        key = precompiled.key_of(text, self._devices)
        if precompiled.path_of(self._directory, key).is_file():
            kept = precompiled.load(self._directory, key, self._devices)
            if kept is not None:
                return kept
        with _compiled_anew():
            compiled = program.lower(*arguments, **fixed).compile()
        try:
            precompiled.save(self._directory, key, compiled)
        except Exception as error:  # a full disk, somebody else's folder: the music is worth more
            _LOG.warning("%s is not kept in %s: %s", name, self._directory, error)
        return compiled


def signature(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """What a compiled program depends on of the arrays that it is called with."""
    leaves, tree = jax.tree.flatten(arguments)
    return str(tree), *((leaf.shape, str(leaf.dtype), str(leaf.sharding)) for leaf in leaves)


@functools.cache
def _source() -> str:
    """sha256 of this package's Python files."""
    folder = pathlib.Path(melody_jax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _processor() -> str:
    """What tells kinds of CPUs apart: their instructions, of which an executable may use all."""
    told = pathlib.Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


@contextmanager
def _compiled_anew() -> Iterator[None]:
    """Without JAX's own cache: on CPUs what comes out of it cannot be written a second time (see `precompiled.save`)."""
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # whether it is used is asked once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
