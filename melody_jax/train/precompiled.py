"""Executables that were compiled ahead of time, found again by a hash of what they were compiled from and for."""

import hashlib
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from melody_jax.files import write_whole

_LOG = logging.getLogger(__name__)
_EFFORT = ("jax_optimization_level", "jax_exec_time_optimization_effort", "jax_memory_fitting_effort")


def path_of(directory: str | Path, lowered: Any, devices: Sequence[Any]) -> Path:
    """Where the executable of a `jax.stages.Lowered` for these devices lies.

    Program, chips, version of JAX and the effort that the compiler is asked for decide.
    """
    effort = [getattr(jax.config, name) for name in _EFFORT]
    told = f"{jax.__version__} {len(devices)} x {devices[0].device_kind} {effort}\n{lowered.as_text()}"
    return Path(directory) / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.xla"


def save(path: Path, compiled: Any) -> None:
    """Writes a `jax.stages.Compiled`, whole or not at all.

    It must have been compiled anew (`jax_enable_compilation_cache` off): on CPUs what comes out of JAX's own cache cannot
    be written a second time without losing functions.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, pickle.dumps(serialize_executable.serialize(compiled)))


def load(path: Path, devices: Sequence[Any]) -> Any | None:
    """The executable, ready to run; None where there is none, or (with a warning) where it cannot be loaded.

    Like every pickle it can run any code: load only what you have written.
    """
    if not path.is_file():
        return None
    try:
        payload, in_tree, out_tree = pickle.loads(path.read_bytes())
        return serialize_executable.deserialize_and_load(payload, in_tree, out_tree, execution_devices=list(devices))
    except Exception as error:  # whatever libtpu, pickle or another version of JAX raise: compiling is always possible
        _LOG.warning("%s cannot be loaded (%s: %s); compiling instead", path, type(error).__name__, error)
        return None
