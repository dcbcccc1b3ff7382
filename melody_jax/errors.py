"""The one exception that means: the user's input is wrong, and here is what to do about it; and the exit codes of `melody`."""

import re
from collections.abc import Iterable

FAILED = 1
"""An end that may not come again when the same command is started again."""
BAD_ARGUMENTS = 2
"""The user's input is wrong (`UserError`)."""
STOPPED = 4
"""A training that the same command would bring to the same end: a number that is not finite, a full disk or one that may
not be written to. Its last checkpoint is intact. After signal n it ends with 128 + n instead, a checkpoint saved before."""

_ADDRESS = re.compile(r"(?:[\w.%@/-]+\s*=\s*)?[\[(]?['\"]?([A-Za-z][A-Za-z0-9+.-]*://\S*)")


class UserError(Exception):
    """Bad input by the user. The message is one clear sentence; the CLI prints it as one line and exits with code 2."""


def refuse_addresses(words: Iterable[str], advice: str = "mount the bucket and name a folder in it") -> None:
    """Raises UserError where a word, or the value of a word "name = value", is an address such as gs://bucket/x.

    Paths are those of file systems: as one, an address would become a folder called "gs:".
    """
    for word in words:
        if found := _ADDRESS.match(word):
            address = found[1].rstrip("'\",)]")
            raise UserError(f"{address} is an address, and paths are those of mounted file systems: {advice}")
