"""Frozen config dataclasses to and from plain JSON, with clear errors for fields that do not belong."""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from melody_jax.errors import UserError

ConfigT = TypeVar("ConfigT")


def to_dict(config: Any) -> dict[str, Any]:
    """A (nested) config dataclass as a JSON-ready dict; tuples become lists."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_dict(cls: type[ConfigT], data: Any) -> ConfigT:
    """The inverse of `to_dict`.

    Raises:
      UserError: a field is unknown to `cls`, one without a default is missing, or one has a value of another type.
    """
    if not isinstance(data, dict):
        raise UserError(f"{cls.__name__} must be an object, got {data!r:.80}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(data) - set(fields))
    required = {name for name, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    missing = sorted(required - set(data))
    if unknown or missing:
        raise UserError(
            f"{cls.__name__}: unknown fields {unknown}, missing fields {missing}; was it written by another version?"
        )
    hints = typing.get_type_hints(cls)
    values = {name: _typed(hints[name], value) for name, value in data.items()}
    for name, value in values.items():
        if hints[name] in _SCALARS and not fits(hints[name], value):
            raise UserError(f"{cls.__name__}: {name} must be of type {hints[name].__name__}, got {value!r:.80}")
    return cls(**values)


def described(cls: type) -> dict[str, str]:
    """Field -> what the "Attributes:" of the class's docstring say of it, without the last full stop."""
    _, _, section = inspect.getdoc(cls).partition("\nAttributes:\n")  # pyright: ignore[reportOptionalMemberAccess]
    section = inspect.cleandoc(section.partition("\n\n")[0])
    texts = {}
    for names, text in re.findall(r"^(\w[\w, ]*): (.*(?:\n +.*)*)", section, re.MULTILINE):
        texts |= dict.fromkeys(names.split(", "), " ".join(text.split()).removesuffix("."))
    return texts


_SCALARS = (int, float, bool, str)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _typed(hint: Any, value: Any) -> Any:
    """Undoes `_plain` for one field: nested dataclasses and tuples, also inside `X | None`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _typed(next(arg for arg in args if arg is not type(None)), value)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(typing.cast(type, hint), value)
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = args[:1] * len(value) if len(args) == 2 and args[1] is Ellipsis else args
        if len(inner) != len(value):
            raise UserError(f"expected {len(inner)} values, got {value!r:.80}")
        return tuple(_typed(arg, item) for arg, item in zip(inner, value, strict=True))
    return value


def check_types(config: Any) -> None:
    """Checks every field of a config dataclass, and of those in it, against the plain type that it declares.

    Raises:
      UserError: one that is of another type.
    """
    check_values(type(config), {field.name: getattr(config, field.name) for field in dataclasses.fields(config)})


def check_values(cls: type, values: Mapping[str, Any]) -> None:
    """The same of values from which a config dataclass is to be made."""
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if dataclasses.is_dataclass(value):
            check_types(value)
        elif not fits(hints[name], value):
            wanted = getattr(hints[name], "__name__", str(hints[name]))
            raise UserError(f"{cls.__name__}.{name} is {value!r}, which is no {wanted}")


def fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a plain type, or of one of a union's; of other types nothing is known."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(fits(one, value) for one in typing.get_args(hint))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str, type(None)) else True
