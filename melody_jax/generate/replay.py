"""What made a piece, read back from the JSON beside it. Imports no jax."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from melody_jax.codes.control_words import parse
from melody_jax.codes.controls import Controls
from melody_jax.config import fits
from melody_jax.errors import UserError
from melody_jax.files import read_json
from melody_jax.generate.settings import Settings, seeds_of, with_settings

ARGUMENTS = {
    "generate": {"prompt": str},
    "continue_": {"prompt": str},
    "inpaint": {"prompt": str, "spans": list},
    "vary": {"prompt": str, "strength": (int, float)},
}
"""Calls of `Melody` -> what they take beside music, seed and settings."""
_CONTROLS: dict[str, Any] = {
    "tempo": float,
    "key": str,
    "metre": str,
    "instruments": list,
    "drums": bool,
    "downbeat": float,
    "others": bool,
}


@dataclasses.dataclass(frozen=True)
class Call:
    """A call that made one piece.

    Attributes:
      name: of the method of `Melody`.
      arguments: of its own.
      negative: the negative prompt.
      controls: what was asked for, in flags and sentence together.
      seed, candidate, settings: as in `Result`.
      sha256: of the samples of the music that was given; None where none was.
      file: where that music came from, if it is known.
    """

    name: str
    arguments: dict[str, Any]
    negative: str | None
    controls: Controls | None
    seed: int
    candidate: int
    settings: Settings
    sha256: str | None
    file: str | None


def read_file(path: str | os.PathLike) -> dict[str, Any]:
    """The JSON beside a piece.

    Raises:
      UserError: it cannot be read, or is no such file.
    """
    info = read_json(path)
    if not isinstance(info, dict) or not isinstance(info.get("call"), dict):
        raise UserError(f"{path} does not say how a piece was made: it holds no call")
    return info


def read_call(info: Mapping[str, Any], ids: Mapping[str, str] | None = None) -> Call:
    """The call in a file's JSON, or that is one.

    Args:
      ids: of the bundle's parts, which must be those that made the piece; None to ask no more.

    Raises:
      UserError: it is none, or comes from another bundle.
    """
    call = info.get("call", info) if isinstance(info, Mapping) else None
    if not isinstance(call, Mapping) or call.get("name") not in [*ARGUMENTS]:  # which need not be hashable
        raise UserError(f"this does not say how a piece was made; calls are {', '.join(ARGUMENTS)}")
    name = call["name"]
    if not isinstance(call.get("settings"), Mapping) or not isinstance(call.get("candidate"), int):
        raise UserError(f"this call of {name} lacks its settings or its candidate")
    arguments = {key: call[key] for key in ARGUMENTS[name] if call.get(key) is not None}
    wrong = [key for key, value in arguments.items() if not isinstance(value, ARGUMENTS[name][key])]
    if wrong:
        raise UserError(f"this call of {name} has a {wrong[0]} that is none: {arguments[wrong[0]]!r:.60}")
    if ids is not None and call.get("bundle") != ids:
        raise UserError("this piece was made with another bundle")
    if "prompt" in arguments and name == "generate":
        arguments["prompts"] = arguments.pop("prompt")
    for key in ("negative", "source", "file"):
        if not isinstance(call.get(key), str | None):
            raise UserError(f"this call of {name} has a {key} that is none: {call[key]!r:.60}")
    settings = with_settings(Settings(), call["settings"])
    return Call(
        name,
        arguments,
        call.get("negative"),
        controls_in(call),
        seeds_of(call.get("seed", 0), 1)[0],
        call["candidate"],
        settings,
        call.get("source"),
        call.get("file"),
    )


def controls_in(call: Mapping[str, Any]) -> Controls | None:
    """What a call asked for: the inverse of `controls.to_json`; None where it says nothing of controls.

    Raises:
      UserError: they are none.
    """
    said = call.get("controls")
    if said is None:
        return None
    if not isinstance(said, Mapping) or not set(said) <= set(_CONTROLS):
        raise UserError(f"these controls are none: {said!r:.60}")
    for name, value in said.items():
        words = isinstance(value, list) and all(isinstance(word, str) for word in value)
        if not (words if name == "instruments" else fits(_CONTROLS[name], value)):
            raise UserError(f"these controls have a {name} that is none: {value!r:.60}")
    given = {"bpm" if name == "tempo" else name: value for name, value in said.items() if name != "others"}
    return dataclasses.replace(parse(**given), only=not said.get("others", False))
