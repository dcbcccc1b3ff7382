"""Arguments that several commands share; argparse turns what their types refuse into one line. Imports no jax."""

import argparse
import contextlib
import dataclasses
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from melody_jax import storage
from melody_jax.config import described
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


def add_fields(
    parser: Any, cls: type, names: Sequence[str] | None = None, prefix: str = "", default: Any = dataclasses.MISSING
) -> None:
    """One option for each field of a dataclass, or for those of `names`: its type, its default, its docstring's words.

    Args:
      prefix: of every option's name.
      default: of all options; not given, each has its field's.
    """
    words = described(cls)
    for field in dataclasses.fields(cls):
        if names is not None and field.name not in names:
            continue
        kind, *others = typing.get_args(field.type) or (field.type,)
        options: dict[str, Any] = {"help": words[field.name]}
        if field.default not in (None, "") and kind is not bool:
            shown = field.default if isinstance(field.default, str) else f"{field.default:g}"
            options["help"] += f" (default {shown})"
        if kind is bool:
            options["action"] = "store_true"
        elif isinstance(kind, str):  # of a Literal
            options["metavar"] = "|".join((kind, *others))
        else:
            options["type"] = _or_none(kind) if others and kind is not str else kind
        options["default"] = field.default if default is dataclasses.MISSING else default
        parser.add_argument(f"--{prefix}{field.name}", **options)


def fields_of(args: argparse.Namespace, cls: type, prefix: str = "") -> dict[str, Any]:
    """Field -> value, of those fields of a dataclass that are among the arguments."""
    given = vars(args)
    names = [field.name for field in dataclasses.fields(cls)]
    return {name: given[prefix + name] for name in names if prefix + name in given}


def _or_none(kind: type) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    return number


def add_data(parser: argparse.ArgumentParser, text: str = "name of the data set, as given to melody data") -> None:
    """--data and --data_dir."""
    parser.add_argument("--data", required=True, metavar="NAME", help=text)
    add_data_dir(parser)


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """--data_dir."""
    text = "where data sets lie (default ./data)"
    parser.add_argument("--data_dir", default="./data", type=folder, metavar="DIR", help=text)


def add_folder(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    """A folder that must be named."""
    parser.add_argument(f"--{name}", required=True, type=folder, metavar="DIR", help=text)


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """--tokenizer."""
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json of a MuLan text tower of your own")


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="JSON instead of text")


@contextlib.contextmanager
def full_install(command: str) -> Iterator[None]:
    """What is imported here comes with `make install`.

    Raises:
      UserError: it is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(f"{command} needs more than the base install ({error}); `make install` installs it") from None


def add_set(parser: argparse.ArgumentParser, text: str = "a gin binding", metavar: str = "BINDING=VALUE") -> None:
    """--set."""
    parser.add_argument("--set", action="append", default=[], metavar=metavar, help=text)


def add_bindings(parser: argparse.ArgumentParser, what: str = "") -> None:
    """--set and --gin_file; what: they are of."""
    add_set(parser, f"a gin binding{what}")
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
