"""Executables compiled ahead of time, found again by their program, their compiler and their chips."""

import hashlib
import importlib.metadata
import json
import logging
import os
import pickle
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import jax
from jax.experimental import serialize_executable

from melody_jax import libtpu, storage
from melody_jax.files import write_whole
from melody_jax.storage import Path

_LOG = logging.getLogger(__name__)
_EFFORT = ("jax_optimization_level", "jax_exec_time_optimization_effort", "jax_memory_fitting_effort")
_FRAMES = "jax_traceback_in_locations_limit"
_DUMPS = "--xla_jf_dump"  # what `ahead.kernels` asks of libtpu, which changes no program

Key = Mapping[str, str]


def lower(program: Any, *arguments: Any) -> Any:
    """The `jax.stages.Lowered` of a jitted program, without the places in source files that its lines came from.

    Kernels contain these places, which would make the same program a different one in another folder.
    """
    frames = getattr(jax.config, _FRAMES)
    jax.config.update(_FRAMES, 0)
    try:
        return program.lower(*arguments)
    finally:
        jax.config.update(_FRAMES, frames)


def key_of(program: str, devices: Sequence[Any]) -> Key:
    """What identifies an executable: program, chips, compiler, and the compiler's options.

    Args:
      program: its text, of what comes from `lower`, or all that the text follows from.
      devices: of the mesh.
    """
    versions = {"jax": jax.__version__}
    for package in ("jaxlib", "libtpu"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    flags = os.environ.get(libtpu.VARIABLE, "").split()
    return {
        "program": hashlib.sha256(program.encode()).hexdigest(),
        "chips": f"{len(devices)} x {devices[0].device_kind}",
        "compiler": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "effort": str([getattr(jax.config, name) for name in _EFFORT]),
        libtpu.VARIABLE: " ".join(sorted(flag for flag in flags if not flag.startswith(_DUMPS))),
    }


def path_of(directory: str | Path, key: Key) -> Path:
    """Path of the executable of a key; the key itself is beside it, with the suffix .json."""
    return storage.path(directory) / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]}.xla"


def save(directory: str | Path, key: Key, compiled: Any) -> Path:
    """Writes a `jax.stages.Compiled`, whole or not at all, and says where.

    It must be freshly compiled (`jax_enable_compilation_cache` off): on CPUs, an executable from JAX's cache loses
    functions when it is written again.
    """
    path = path_of(directory, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path.with_suffix(".json"), json.dumps(key, indent=1) + "\n")
    return write_whole(path, pickle.dumps(serialize_executable.serialize(compiled)))


def load(directory: str | Path, key: Key, devices: Sequence[Any]) -> Any | None:
    """The executable, ready to run; None, with a warning that says why, if there is none or it cannot be loaded.

    Like every pickle it can run any code: load only what you have written.
    """
    path = path_of(directory, key)
    if not path.is_file():
        _LOG.warning("no executable of this step in %s: %s; compiling instead", directory, _why(directory, key))
        return None
    try:
        payload, in_tree, out_tree = pickle.loads(path.read_bytes())
        return serialize_executable.deserialize_and_load(payload, in_tree, out_tree, execution_devices=list(devices))
    except Exception as error:  # whatever libtpu, pickle or another version of JAX raise: compiling is always possible
        _LOG.warning("%s cannot be loaded (%s: %s); compiling instead", path, type(error).__name__, error)
        return None


def _why(directory: str | Path, key: Key) -> str:
    """How the most similar of the executables that are there differs."""
    others = [json.loads(path.read_text()) for path in sorted(storage.path(directory).glob("*.json"))]
    if not others:
        return "there is none at all"
    differing = [{name for name in key if other.get(name) != key[name]} for other in others]
    nearest = min(range(len(others)), key=lambda i: len(differing[i]))
    told = [
        "another program" if name == "program" else f"{name} {others[nearest].get(name)!r}, here {key[name]!r}"
        for name in sorted(differing[nearest])
    ]
    return f"of {len(others)} the nearest was compiled for {' and '.join(told)}"
