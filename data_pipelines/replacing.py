"""One writer at a time for a data set. No TensorFlow here."""

import contextlib

from melody_jax import lock
from melody_jax.storage import Path


def sole_writer(directory: Path) -> contextlib.AbstractContextManager[None]:
    """The lock of the process that writes the data set in `directory` (its version folder); a second process waits and says so."""
    return lock.waiting(directory.parent / "lock", f"data set {directory.parent.name}")
