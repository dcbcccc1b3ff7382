"""The token that requests must carry, as the operator gives it. Imports no jax."""

import os
import pathlib

from melody_jax.errors import UserError

VARIABLE = "MELODY_TOKEN"


def read_token(file: str | None) -> str | None:
    """The token, from a file or the environment: a command line is seen by everybody on the machine. None for none.

    Raises:
      UserError: the file cannot be read, or the token is empty.
    """
    text = os.environ.get(VARIABLE)
    if file is not None:
        try:
            text = pathlib.Path(file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the token in {file}: {error}") from None
    if text is None:
        return None
    if not text.strip():
        raise UserError("the token is empty")
    return text.strip()
