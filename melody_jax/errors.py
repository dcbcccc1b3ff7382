"""The one exception that means: the user's input is wrong, and here is what to do about it; and the exit codes of `melody`."""

FAILED = 1
"""An end that may not come again when the same command is started again."""
BAD_ARGUMENTS = 2
"""The user's input is wrong (`UserError`)."""
STOPPED = 4
"""A training that the same command would bring to the same end: a number that is not finite, a full disk. Its last
checkpoint is intact. After signal n it ends with 128 + n instead, a checkpoint saved before."""
INTERRUPTED = 130
"""After SIGINT (128 + 2), whatever the command was doing."""


class UserError(Exception):
    """Bad input by the user. The message is one clear sentence; the CLI prints it as one line and exits with code 2."""
