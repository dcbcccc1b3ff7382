"""The two exceptions that mean something to the user, and the exit codes of `melody`."""

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator

FAILED = 1
"""A failure that starting the same command again may mend."""
BAD_ARGUMENTS = 2
"""The user's input is wrong (`UserError`)."""
STOPPED = 4
"""A training that the same command would bring to the same end: a number that is not finite, a full disk or one that may
not be written to. Its last checkpoint is intact. After signal n it ends with 128 + n instead, a checkpoint saved before."""

INTERRUPTED = 130
"""After SIGINT (128 + 2), whatever the command was doing."""

BROKEN_PIPE = 141
"""What reads our output has ended (128 + SIGPIPE)."""

BOUND_PATHS = ("init_from", "parents_dir", "precompiled_dir")
"""Bindings whose values may be paths in buckets."""

OURS = ("melody_jax", "data_pipelines", "launch")
"""Our own packages: no extra mends it where one of them lacks a module."""

# a whole word, or what stands in a binding behind "=", in quotes or in a list
_ADDRESS = re.compile(r"(?:^|[=\[(,'\"])\s*['\"]?([A-Za-z][A-Za-z0-9+.-]*://[^\s'\",)\]]*)")

# Orbax and TensorStore have no exceptions of their own for a full disk or a refusal, but quote the system
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTSUP)
# a path that cannot be what it is used as: a file for a folder, say
_MISTAKEN = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
_FINAL = (*map(os.strerror, _REFUSED), "Forbidden: ", "PERMISSION_DENIED")  # and those of buckets


class UserError(Exception):
    """Bad input by the user. The message is one clear sentence; the CLI prints it as one line and exits with code 2."""


def lacking(extra: str, what: str, reason: object = "") -> UserError:
    """The error where `what` needs an extra of setup.py that is not installed: it says how to install it."""
    how = f"pip install 'melody_jax[{extra}]'"
    if extra == "data":  # which no pip command is all of
        how = "`make install`"
    return UserError(f"{what} needs the extra `{extra}`{f' ({reason})' if reason else ''}; {how} installs it")


@contextlib.contextmanager
def of_extra(extra: str, what: str) -> Iterator[None]:
    """Around imports of packages that the extra `extra` installs, for the sake of `what`.

    Raises:
      UserError: one of them is not installed.
    """
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] in OURS:
            raise
        raise lacking(extra, what, error) from None


def refuse_addresses(words: Iterable[str], advice: str = "one in a mounted bucket is") -> None:
    """Raises UserError where a word, or a value in a binding "name = value", is an address such as gs://bucket/x.

    As a path of this machine it would become a folder called "gs:". Paths in buckets (`storage.path`) are left out by the
    caller; here those are that are bound to `BOUND_PATHS`.
    """
    for word in words:
        bound = word.partition("=")[0].strip().rpartition(".")[2] in BOUND_PATHS
        for found in _ADDRESS.finditer(word):
            if not (bound and found[1].startswith("gs://")):
                raise UserError(f"{found[1]} is an address; here only a path of this machine will do: {advice}")


class StoppedError(Exception):
    """Training ended before its last step. The message is one clear sentence; `exit_code` is the process's.

    The exit code of a signal (130, 143) or FAILED tells a launcher to start the same command again, STOPPED not to.
    """

    def __init__(self, message: str, exit_code: int = STOPPED):
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(error: Exception) -> int:
    """Of a run that ends with the error: a StoppedError's own; STOPPED for a disk that is full or refuses to be
    written to, FAILED for all else."""
    if isinstance(error, StoppedError):
        return error.exit_code
    return STOPPED if any(text in str(error) for text in _FINAL) else FAILED


@contextlib.contextmanager
def exporting(out: object) -> Iterator[None]:
    """Around the writing of an export to `out`: an OSError is a UserError that names it, but for a disk that is full or refuses."""
    try:
        yield
    except OSError as error:
        if exit_code_of(error) == STOPPED:
            raise
        raise UserError(f"cannot export to {out}: {error}") from None


def refused(error: Exception) -> tuple[str, int] | None:
    """What the system refused, in a line, and the exit code; None for all that may be a fault of ours.

    STOPPED for a disk that is full or may not be used, BAD_ARGUMENTS for a path that is not what it should be.
    """
    if isinstance(error, OSError) and error.errno in (*_REFUSED, *_MISTAKEN):
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        return f"{place}{error.strerror}", STOPPED if error.errno in _REFUSED else BAD_ARGUMENTS
    if exit_code_of(error) == STOPPED:  # TensorFlow's and others' own kinds of error
        return " ".join(str(error).split()), STOPPED
    return None
