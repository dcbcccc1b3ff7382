"""Hugging Face folders (config.json and safetensors) to parts and back; `counterparts.py` holds the tables.

An imported part keeps the tensors that our model has no use for, the file's dtype and its config.json, so that writing
it back gives the same folder bit for bit.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from melody_jax import config as config_lib
from melody_jax.bundle.bundle import finished_in
from melody_jax.bundle.part import Part, cast, flatten, load_part, save_part, unflatten, write_weights
from melody_jax.errors import UserError
from melody_jax.files import UNFINISHED, publish, read_object
from melody_jax.geometry import Geometry
from melody_jax.graph import ORDER
from melody_jax.interop.counterparts import COUNTERPARTS
from melody_jax.interop.rules import Counterpart, NoCounterpartError, Rule, abstract
from melody_jax.train.start import UNUSED, listed

RECORD = "huggingface"
"""Where its training record keeps the config.json and the prefix of the tensors' names."""

WEIGHTS = "model.safetensors"


def import_folder(
    source: str | os.PathLike, out: str | os.PathLike, model: str | None = None, drop: Sequence[str] = ()
) -> tuple[Part, str]:
    """Reads a Hugging Face folder and writes it as a part.

    Args:
      source: a folder with config.json and model.safetensors (or its shards and their index).
      out: the part's directory.
      model: a name of `COUNTERPARTS`; None takes what config.json says.
      drop: patterns (regular expressions, of whole names) of tensors to leave out, such as a head's.

    Returns:
      The part, and the gin bindings that make our model of the same shape.

    Raises:
      UserError: the folder cannot be read, is of another model, or has missing, extra or wrongly shaped tensors.
    """
    folder = pathlib.Path(source)
    settings = read_object(folder / "config.json", f"{folder} is no Hugging Face folder: it holds no config.json")
    counterpart = _counterpart(settings, model, folder)
    try:
        fields = counterpart.read(settings)
    except KeyError as error:
        raise UserError(f"{folder}/config.json: {error.args[0]} is missing") from None
    config = config_lib.from_dict(counterpart.config, fields)
    rules = counterpart.rules(config)
    on_disk = _drop(_read_tensors(folder), drop)
    tensors, prefix = _without_prefix(on_disk, counterpart.prefixes)
    unused = {name for name in tensors if any(re.fullmatch(pattern, name) for pattern in counterpart.unused)}
    rules = [rule for rule in rules if not rule.group or _present(rules, rule.group) & set(tensors)]
    expected = abstract(rules, counterpart.shapes(config))
    problems = _problems(
        tensors,
        expected,
        unused,
        lambda name: name if name in on_disk else _with_prefix(name, prefix, counterpart),
    )
    if problems:
        raise UserError(f"{folder} is no {counterpart.name} of its config.json; {problems}")
    ours: dict[str, np.ndarray] = {}
    for rule in rules:
        ours |= zip(rule.ours, rule.to_ours([tensors[name] for name in rule.theirs]), strict=True)
    params = unflatten(ours)
    if unused:
        params[UNUSED] = {name: tensors[name] for name in sorted(unused)}
    record = {RECORD: {"config": settings, "prefix": prefix}, "source": str(folder.name)}
    part = save_part(out, counterpart.name, params, config, Geometry(), {}, record)
    return part, bindings(counterpart.config, fields)


def export_folder(part: Part, counterpart: Counterpart, out: str | os.PathLike, dtype: str | None = None) -> list[str]:
    """Writes the model `counterpart` that a part holds as a Hugging Face folder; an older one there is replaced.

    Args:
      part: an imported one of the same name, or the part of the counterpart's stage.
      dtype: cast to it; None keeps the part's.

    Returns:
      Names of the part's parameters (within the model) that have no counterpart.

    Raises:
      NoCounterpartError: the part's model is something that theirs is not.
      UserError: the folder cannot be written.
    """
    params = part.params
    if part.name == counterpart.name:
        config, record = config_lib.from_dict(counterpart.config, part.config), part.training[RECORD]
        settings, prefix = record["config"], record["prefix"]
    else:
        config, prefix = counterpart.of_stage(part), ""
        settings = {"model_type": counterpart.model_types[0], **counterpart.write(config)}
        if "Model" not in settings["architectures"][0] and counterpart.prefixes:
            prefix = counterpart.prefixes[0]
        for name in filter(None, counterpart.place.split("/")):
            params = params[name]
    params = dict(params)
    tensors = dict(params.pop(UNUSED, {}))
    flat = flatten(params)
    rules = [rule for rule in counterpart.rules(config) if not rule.group or set(rule.ours) <= set(flat)]
    tensors |= to_tensors(rules, flat)
    whole = {_with_prefix(name, prefix, counterpart): np.asarray(x, order="C") for name, x in tensors.items()}
    _write(pathlib.Path(out), settings, cast(part.name, whole, dtype))
    return sorted(set(flat) - {name for rule in rules for name in rule.ours})


def export_parts(model_dir: str, out: str | os.PathLike, dtype: str | None = None) -> Iterator[str]:
    """Writes a folder for each counterpart of the finished stages of a model folder, or of one part, with `export_folder`.

    Yields:
      What became of each, a line of text.

    Raises:
      UserError: there is no part, none has a counterpart, or a folder cannot be written.
    """
    written = 0
    for part in map(load_part, finished_in(model_dir, ORDER)):
        counterparts = in_part(part)
        if not counterparts:
            yield f"{part.name}: no counterpart"
        for counterpart in counterparts:
            folder = pathlib.Path(out) / counterpart.name
            try:
                left = export_folder(part, counterpart, folder, dtype)
            except NoCounterpartError as error:
                yield f"{part.name}: no {counterpart.name}: {error}"
                continue
            written += 1
            yield f"{part.name}: {counterpart.name} in {folder}" + (f"; without {', '.join(left)}" if left else "")
    if not written:
        raise UserError(f"nothing in {model_dir} has a counterpart")


def to_tensors(rules: Iterable[Rule], flat: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our parameters ("/" between the names) as tensors, their names without a prefix."""
    tensors: dict[str, np.ndarray] = {}
    for rule in rules:
        tensors |= zip(rule.theirs, rule.to_theirs([np.asarray(flat[name]) for name in rule.ours]), strict=True)
    return tensors


def in_part(part: Part) -> list[Counterpart]:
    """The counterparts of the models in a part: its own, where it was imported, or those of its stage."""
    if part.name in COUNTERPARTS:
        return [COUNTERPARTS[part.name]]
    return [counterpart for counterpart in COUNTERPARTS.values() if counterpart.stage == part.name]


def bindings(cls: Any, fields: Mapping[str, Any]) -> str:
    """A gin file that gives our config dataclasses these fields; those that a geometry decides are left out.

    Modules have the names that configs/ gives them: gin knows a class by the first one that it sees in a process.
    """
    modules: dict[str, str] = {}
    lines: list[str] = []

    def add(cls: Any, fields: Mapping[str, Any]) -> None:
        types = {field.name: field.type for field in dataclasses.fields(cls)}
        alias = modules.setdefault(cls.__module__, cls.__module__.removesuffix(".config").rpartition(".")[2])
        for name, value in fields.items():
            if isinstance(value, Mapping):
                add(types[name], value)
            elif cls.__module__ != Rule.__module__:
                lines.append(f"{alias}.{cls.__name__}.{name} = {value!r}")

    add(cls, fields)
    modules.pop(Rule.__module__, None)
    imports = [
        f"from {module.rpartition('.')[0]} import {module.rpartition('.')[2]} as {alias}"
        for module, alias in modules.items()
    ]
    return "\n".join(["from __gin__ import dynamic_registration", "", *imports, "", *lines]) + "\n"


def _counterpart(settings: Mapping[str, Any], model: str | None, folder: pathlib.Path) -> Counterpart:
    if model is not None and model not in COUNTERPARTS:
        raise UserError(f"unknown model {model!r}; choose one of {', '.join(COUNTERPARTS)}")
    kind = settings.get("model_type")
    found = next((c for c in COUNTERPARTS.values() if kind in c.model_types), None)
    wanted = found if model is None else COUNTERPARTS[model]
    if wanted is None or wanted is not found:
        known = ", ".join(c.model_types[0] for c in COUNTERPARTS.values()) if wanted is None else wanted.model_types[0]
        raise UserError(f"{folder}/config.json is of model_type {kind!r}, not {known}")
    return wanted


def _read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    index = folder / f"{WEIGHTS}.index.json"
    names = [WEIGHTS]
    if index.is_file():
        files = read_object(index, f"{index} is gone").get("weight_map")
        if not isinstance(files, dict) or not all(pathlib.PurePath(str(name)).name == name for name in files.values()):
            raise UserError(f"{index} does not say which file of its folder holds each tensor")
        names = sorted(set(files.values()))
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        path = folder / name
        if not path.is_file():
            others = sorted(p.name for p in folder.glob("pytorch_model*.bin"))
            hint = f"; convert {others[0]} to safetensors" if others else ""
            raise UserError(f"{folder} holds no {name}{hint}")
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
    return tensors


def _drop(tensors: Mapping[str, np.ndarray], patterns: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        compiled = [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise UserError(f"--drop {error.pattern}: no regular expression ({error})") from None
    idle = [p.pattern for p in compiled if not any(p.fullmatch(name) for name in tensors)]
    if idle:
        raise UserError(f"--drop {idle[0]}: no tensor of that name")
    return {name: x for name, x in tensors.items() if not any(p.fullmatch(name) for p in compiled)}


def _without_prefix(tensors: Mapping[str, np.ndarray], prefixes: Iterable[str]) -> tuple[dict[str, np.ndarray], str]:
    """The tensors without the prefix that their names have, and that prefix; names of heads have none."""
    prefix = next((p for p in prefixes if any(name.startswith(p) for name in tensors)), "")
    return {name.removeprefix(prefix): x for name, x in tensors.items()}, prefix


def _with_prefix(name: str, prefix: str, counterpart: Counterpart) -> str:
    return name if name.startswith(counterpart.heads) else prefix + name


def _present(rules: Sequence[Rule], group: str) -> set[str]:
    return {name for rule in rules if rule.group == group for name in rule.theirs}


def _problems(
    tensors: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    unused: set[str],
    on_disk: Callable[[str], str],
) -> str:
    """What is wrong with the tensors, their names as they are on disk; "" if nothing."""
    problems = {
        "missing": [on_disk(name) for name in sorted(set(expected) - set(tensors))],
        "extra": [on_disk(name) for name in sorted(set(tensors) - set(expected) - unused)],
        "wrongly shaped": [
            f"{on_disk(name)} {list(tensors[name].shape)} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        ],
    }
    said = "; ".join(f"{kind}: {listed(names)}" for kind, names in problems.items() if names)
    return said + (" (--drop PATTERN leaves out extra tensors)" if problems["extra"] else "")


def _write(out: pathlib.Path, settings: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    if out.exists() and {p.name for p in out.iterdir()} - {"config.json", WEIGHTS, UNFINISHED}:
        raise UserError(f"cannot write {out}: the folder holds other things")
    scratch = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    scratch.mkdir(parents=True)
    try:
        write_weights(tensors, scratch / WEIGHTS, metadata={"format": "pt"})
        (scratch / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        publish(scratch, out, "config.json")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
