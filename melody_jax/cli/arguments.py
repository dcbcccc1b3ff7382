"""Arguments that several commands share; argparse turns what their types refuse into one line. Imports no jax."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from melody_jax import storage
from melody_jax.errors import UserError

REPOSITORY_BUNDLE = Path(__file__).parents[2] / "bundles" / "tiny"


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


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """Raises UserError where a number that was given is below 1."""
    for name in names:
        number = getattr(args, name, None)
        if number is not None and number < 1:
            raise UserError(f"--{name} must be at least 1, got {number}")


def add_bindings(parser: argparse.ArgumentParser, what: str = "") -> None:
    """--set and --gin_file; what: they are of."""
    parser.add_argument("--set", action="append", default=[], metavar="BINDING=VALUE", help=f"a gin binding{what}")
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE", help=f"a further gin file{what}")


def add_hardware(parser: argparse.ArgumentParser) -> None:
    """--hardware."""
    parser.add_argument("--hardware", default="auto", help="a file of configs/hardware (default: by what there is)")


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """--bundle, for `bundle_of`."""
    parser.add_argument("--bundle", metavar="DIR", help="exported models (default: bundles/tiny of this repository)")


def bundle_of(directory: str | None) -> storage.Path:
    """The bundle's folder.

    Raises:
      UserError: none was named, and there is none in the repository.
    """
    if directory is None and not REPOSITORY_BUNDLE.is_dir():
        raise UserError(f"there is no bundle at {REPOSITORY_BUNDLE}; name one with --bundle DIR")
    return REPOSITORY_BUNDLE if directory is None else storage.path(directory)


def add_adapter(parser: argparse.ArgumentParser, text: str) -> None:
    """--adapter, for `adapters_of`."""
    parser.add_argument("--adapter", action="append", default=[], metavar="DIR[=WEIGHT]", help=text)


def adapters_of(items: Sequence[str]) -> dict[str, float]:
    """Folder -> weight of every DIR or DIR=WEIGHT.

    Raises:
      UserError: a weight that is no number.
    """
    weights = {}
    for item in items:
        directory, separator, weight = item.rpartition("=")
        try:
            weights[directory if separator else item] = float(weight) if separator else 1.0
        except ValueError:
            raise UserError(f"--adapter {item}: the weight must be a number") from None
    return weights
