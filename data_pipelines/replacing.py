"""One writer at a time for a data set, whose old version stays until the new one is finished. No TensorFlow here."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

from melody_jax import lock
from melody_jax.storage import Path


def sole_writer(directory: Path) -> contextlib.AbstractContextManager[None]:
    """The lock of the process that writes the data set in `directory` (its version folder); a second process waits and says so."""
    return lock.waiting(directory.parent / "lock", f"data set {directory.parent.name}")


@contextlib.contextmanager
def set_aside(directory: pathlib.Path) -> Iterator[None]:
    """Moves an old data set aside while a new one is made; it is restored if the new one is not finished."""
    aside = directory.with_name(f"replaced-{directory.name}")
    if directory.exists():
        shutil.rmtree(aside, ignore_errors=True)
        directory.rename(aside)
    try:
        yield
    except BaseException:
        if aside.exists() and not directory.exists():
            aside.rename(directory)
        raise
    shutil.rmtree(aside, ignore_errors=True)
