"""Uploaded music: the file on disk as it comes in, then through the reader that data sets are made with. Imports no jax."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterable, AsyncIterator

import numpy as np

from data_pipelines.decode import UnusableError, whole_of
from melody_jax.errors import UserError
from melody_jax.shapes import Float

TYPES = ("audio/", "video/mp4", "video/webm", "application/ogg", "application/octet-stream")
"""How the media type of an upload must begin; its reader finds out the file format."""
_PATIENCE = 120.0
"""Seconds that an upload may take."""


class TooLargeError(Exception):
    """More bytes than may be sent."""


@contextlib.asynccontextmanager
async def received(body: AsyncIterable[bytes], most_bytes: int) -> AsyncIterator[str]:
    """The path of a file that holds the body, as long as the block lasts: memory does not grow with uploads.

    Raises:
      TooLargeError: more than `most_bytes`.
      TimeoutError: it takes too long.
    """
    handle, path = tempfile.mkstemp(prefix="melody-upload-")
    try:
        with os.fdopen(handle, "wb") as file:
            size = 0
            async with asyncio.timeout(_PATIENCE):
                async for chunk in body:
                    size += len(chunk)
                    if size > most_bytes:
                        raise TooLargeError(f"an upload has at most {most_bytes >> 20} MiB")
                    file.write(chunk)
        yield path
    finally:
        os.unlink(path)


def decoded(path: str, sample_rate: int, longest: float) -> Float[np.ndarray, " T"]:
    """The music in a file, mono, within full scale.

    Raises:
      UserError: it is none that can be used; the reason as in a data set's rejected.jsonl.
    """
    try:
        audio = whole_of(path, sample_rate, longest)
    except UnusableError as error:
        raise UserError(f"this file cannot be used: {error}") from None
    return np.clip(audio, -1.0, 1.0)
