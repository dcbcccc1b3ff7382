"""What a subcommand is made of, and the options that several share; argparse turns what their types refuse into one line.

Imports no jax.
"""

import argparse
import dataclasses
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from melody_jax import storage
from melody_jax.config import described
from melody_jax.errors import UserError

REPOSITORY_BUNDLE = Path(__file__).parents[2] / "bundles" / "tiny"

Option = Callable[[Any], object]
"""Adds an option, or several, to a parser or to a group of its options."""


@dataclasses.dataclass
class Command:
    """A subcommand.

    Attributes:
      run: does it with the arguments, prints what came of it, and returns the exit code (None is 0).
      options: in the order of its help.
      epilog: the end of its help: what exit codes mean, what the help of the options leaves out.
    """

    run: Callable[[argparse.Namespace], int | None]
    options: Sequence[Option]
    epilog: str | None = None


def command(*options: Option, epilog: str | None = None) -> Callable[[Callable[[argparse.Namespace], Any]], Command]:
    """Makes a function of the arguments a subcommand."""
    return lambda run: Command(run, options, epilog)


def option(name: str, text: str, **how: Any) -> Option:
    """One option or positional argument with its help, the rest as argparse takes it."""
    return lambda parser: parser.add_argument(name, help=text, **how)


def several(name: str, metavar: str, text: str) -> Option:
    """An option that may be given several times; its value is a list."""
    return option(name, text, action="append", default=[], metavar=metavar)


def group(title: str, *options: Option) -> Option:
    """Options under a heading of their own."""

    def add(parser: argparse.ArgumentParser) -> None:
        under = parser.add_argument_group(title)
        for each in options:
            each(under)

    return add


def folder(text: str) -> str:
    """A folder, which need not be there yet; nothing on the way to it may be a file."""
    if storage.in_bucket(text):  # which has no folders
        return text
    path = Path(text)
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise argparse.ArgumentTypeError(f"{place} is a file, not a folder")
    return text


class Positive(argparse.Action):
    """A whole number of at least 1."""

    def __init__(self, **options: Any):
        super().__init__(type=int, **options)

    def __call__(self, parser, namespace, values: Any, option_string=None):
        if values < 1:
            raise UserError(f"{option_string} must be at least 1, got {values}")
        setattr(namespace, self.dest, values)


SHARED: dict[str, dict[str, Any]] = {
    "adapter": {"action": "append", "default": [], "metavar": "DIR[=WEIGHT]"},
    "bundle": {"metavar": "DIR", "help": "exported models (default: bundles/tiny of this repository)"},
    "data": {"required": True, "metavar": "NAME", "help": "name of the data set, as given to melody data"},
    "data_dir": {
        "default": storage.DATA_DIR,
        "type": folder,
        "metavar": "DIR",
        "help": f"where data sets lie (default {storage.DATA_DIR})",
    },
    "gin_file": {"action": "append", "default": [], "metavar": "FILE", "help": "a further gin file"},
    "hardware": {"default": "auto", "help": "a file of configs/hardware (default: by what there is)"},
    "json": {"action": "store_true", "help": "JSON instead of text"},
    "mesh": {"help": "device mesh, as data=-1,fsdp=4,tensor=2 (default: data=-1)"},
    "model_dir": {"required": True, "type": folder, "metavar": "DIR", "help": "where `melody train` put the stages"},
    "out": {"required": True, "type": folder, "metavar": "DIR"},
    "set": {"action": "append", "default": [], "metavar": "BINDING=VALUE", "help": "a gin binding"},
    "size": {"required": True, "help": "a folder of configs/sizes: tiny, small, paper"},
    "tokenizer": {"metavar": "FILE", "help": "tokenizer.json of a MuLan text tower of your own"},
    "total_steps": {"action": Positive, "help": "instead of the configuration's"},
}
"""Options of several commands, as argparse takes them."""


def shared(*names: str, **helps: str) -> Option:
    """Options of `SHARED`: those of `names`, and those of `helps` with a help text of their own."""

    def add(parser: Any) -> None:
        for name in (*names, *helps):
            own = {"help": helps[name]} if name in helps else {}
            parser.add_argument(f"--{name}", **(SHARED[name] | own))

    return add


def fields(
    cls: type, names: Sequence[str] | None = None, prefix: str = "", default: Any = dataclasses.MISSING
) -> Option:
    """One option for each field of a dataclass, or for those of `names`: its type, its default, its docstring's words.

    Args:
      prefix: of every option's name.
      default: of all options; not given, each has its field's.
    """
    words = described(cls)

    def add(parser: Any) -> None:
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

    return add


def fields_of(args: argparse.Namespace, cls: type, prefix: str = "") -> dict[str, Any]:
    """Field -> value, of those fields of a dataclass that are among the arguments."""
    given = vars(args)
    names = [field.name for field in dataclasses.fields(cls)]
    return {name: given[prefix + name] for name in names if prefix + name in given}


def _or_none(kind: type) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    return number


def bundle_of(directory: str | None) -> storage.Path:
    """--bundle: its folder.

    Raises:
      UserError: none was named, and there is none in the repository.
    """
    if directory is None and not REPOSITORY_BUNDLE.is_dir():
        raise UserError(f"there is no bundle at {REPOSITORY_BUNDLE}; name one with --bundle DIR")
    return REPOSITORY_BUNDLE if directory is None else storage.path(directory)


def adapters_of(items: Sequence[str]) -> dict[str, float]:
    """--adapter: folder -> weight of every DIR or DIR=WEIGHT.

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
