"""The two exceptions that mean something to the user, and the exit codes of `melody`."""

import errno
import os

FAILED = 1
"""An end that may not come again when the same command is started again."""
BAD_ARGUMENTS = 2
"""The user's input is wrong (`UserError`)."""
STOPPED = 4
"""A training that the same command would bring to the same end: a number that is not finite, a full disk. Its last
checkpoint is intact. After signal n it ends with 128 + n instead, a checkpoint saved before."""

# Orbax and TensorStore have no exceptions of their own for a full disk, but quote the system
_FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)))


class UserError(Exception):
    """Bad input by the user. The message is one clear sentence; the CLI prints it as one line and exits with code 2."""


class StoppedError(Exception):
    """Training ended before its last step. The message is one clear sentence; `exit_code` is the process's.

    The exit code of a signal (130, 143) or FAILED tells a launcher to start the same command again, STOPPED not to.
    """

    def __init__(self, message: str, exit_code: int = STOPPED):
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(error: Exception) -> int:
    """Of a run that ends with the error: a StoppedError's own; STOPPED for a full disk, FAILED for all else."""
    if isinstance(error, StoppedError):
        return error.exit_code
    return STOPPED if any(text in str(error) for text in _FULL) else FAILED
