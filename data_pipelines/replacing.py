"""Data sets that are written: their names, and one writer at a time. No TensorFlow here."""

import contextlib

from melody_jax import lock
from melody_jax.errors import UserError
from melody_jax.storage import Path


def sole_writer(directory: Path) -> contextlib.AbstractContextManager[None]:
    """The lock of the process that writes the data set in `directory` (its version folder); a second process waits and says so."""
    return lock.waiting(directory.parent / "lock", f"data set {directory.parent.name}")


def check_name(name: str, option: str) -> None:
    """Refuses what is no name for a data set, which the option gave.

    Raises:
        UserError: see above.
    """
    if not name.replace("-", "_").isidentifier():
        raise UserError(f"{option} {name!r}: use letters, digits, - and _ only, not beginning with a digit")
