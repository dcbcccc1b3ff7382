"""Types of arguments that several commands share; argparse turns what they refuse into one line."""

import argparse
from pathlib import Path

from melody_jax import storage


def folder(text: str) -> str:
    """A folder, which need not be there yet; nothing on the way to it may be a file."""
    if storage.in_bucket(text):  # which has no folders
        return text
    path = Path(text)
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise argparse.ArgumentTypeError(f"{place} is a file, not a folder")
    return text


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
