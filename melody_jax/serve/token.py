"""The token that requests must carry, as the operator gives it. Imports no jax."""

import os
import warnings

from melody_jax.errors import UserError
from melody_jax.files import read_text

VARIABLE = "MELODY_TOKEN"
LOCAL = ("127.0.0.1", "localhost", "::1")


def read_token(file: str | None, host: str = LOCAL[0]) -> str | None:
    """The token, from a file or the environment: a command line is seen by everybody on the machine. None for none, which
    is worth a warning where `host`, the address that is listened on, is not this machine's own.

    Raises:
      UserError: the file cannot be read, or the token is empty.
    """
    text = os.environ.get(VARIABLE)
    if file is not None:
        text = read_text(file)
    if text is None:
        if host not in LOCAL:
            warnings.warn(f"everybody who reaches {host} may make music here: no token is set", stacklevel=2)
        return None
    if not text.strip():
        raise UserError("the token is empty")
    return text.strip()
