"""A part: the weights of one finished stage, with everything needed to rebuild and to trust them.

A part is a directory: `part.json` and one or more safetensors files (`weights.safetensors`, or shards when a file-size
limit is given). Nested parameters are flattened with "/". The id is a sha256 over name, config, geometry, parents and
weights, so two parts share an id only if they are the same model; each part names the ids of the parents that it was
trained with. A cast keeps the id, which then cannot be computed from the files; so `part.json` ends with a sha256 of
itself, the hashes of the weights files included: what was edited afterwards is refused.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from melody_jax import config as config_lib
from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.files import UNFINISHED, read_object, whole_folder
from melody_jax.geometry import Geometry
from melody_jax.storage import Path

INFO_FILE = "part.json"
FORMAT = 2
UNSEALED = 1
"""The format before `seal`: its id is verified where the weights are those that it was computed from."""
FIELDS = {
    "name": str,
    "config": dict,
    "geometry": dict,
    "id": str,
    "parents": dict,
    "training": dict,
    "dtype": str,
    "files": dict,
}
_FLOATS = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One loaded (or just saved) part.

    Attributes:
      name: stage name: autoencoder, mulan, semantic, codes, lm or dpd.
      params: nested dict of host arrays, in the dtype of the file.
      config: the model's config as a plain dict; `config.from_dict(cls, part.config)` rebuilds it.
      geometry: the geometry it was trained at.
      id: sha256 of the part as it was trained; casting for export keeps it.
      parents: stage name -> id of the parts it was trained with.
      training: what it was trained on and for how long (free-form, JSON).
      dtype: dtype of the stored floating-point weights, or "mixed".
    """

    name: str
    params: dict[str, Any]
    config: dict[str, Any]
    geometry: Geometry
    id: str
    parents: dict[str, str]
    training: dict[str, Any]
    dtype: str

    @property
    def parameters(self) -> int:
        """Number of stored scalars."""
        return sum(int(leaf.size) for leaf in flatten(self.params).values())


def save_part(
    directory: str | os.PathLike,
    name: str,
    params: Mapping[str, Any],
    config: Any,
    geometry: Geometry,
    parents: Mapping[str, str],
    training: Mapping[str, Any],
    dtype: str | None = None,
    part_id: str | None = None,
    max_file_bytes: int | None = None,
) -> Part:
    """Writes a part directory, whole or not at all (`files.whole_folder`), replacing an older part there.

    Args:
      params: nested dict of arrays (unboxed; JAX or NumPy).
      config: the model's config dataclass, or its plain dict.
      parents: stage name -> id of each parent part.
      training: JSON-able facts: steps, seconds, data.
      dtype: cast floating-point weights to "float32", "float16" or "bfloat16"; None keeps them.
      part_id: the id to keep when re-exporting a part; None computes it from the weights before the cast.
      max_file_bytes: split the weights into several files of at most this size; None writes one file.

    Raises:
      UserError: unknown dtype, a weight that is not finite in `dtype`, a tensor larger than the limit, or `directory`
        is something other than a part.
      OSError: it cannot be written, as on a full disk.
    """
    directory = storage.path(directory)
    _refuse_foreign(directory)
    plain = dict(config) if isinstance(config, Mapping) else config_lib.to_dict(config)
    flat = {key: np.asarray(leaf, order="C") for key, leaf in flatten(params).items()}
    info: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "config": plain,
        "geometry": config_lib.to_dict(geometry),
        "parents": dict(sorted(parents.items())),
    }
    info["id"] = part_id or _identity(info | {"format": UNSEALED}, flat)  # the seal changed nothing about ids
    flat = cast(name, flat, dtype)
    info |= {"dtype": _float_dtype(flat), "training": dict(training), "files": {}}
    with whole_folder(directory, INFO_FILE) as scratch:
        for filename, tensors in _shards(name, flat, max_file_bytes):
            write_weights(tensors, scratch / filename)
            info["files"][filename] = _sha256(scratch / filename)
        info["seal"] = seal(info)
        (scratch / INFO_FILE).write_text(json.dumps(info, indent=1) + "\n")
    return _from_info(info, flat)


def write_weights(tensors: Mapping[str, np.ndarray], path: pathlib.Path, **more: Any) -> None:
    """A safetensors file. Raises OSError where the disk is full; safetensors' own error does not say which file it is of."""
    try:
        save_file(dict(tensors), path, **more)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from None


def load_part(directory: str | os.PathLike) -> Part:
    """Reads a part and verifies `part.json` and the sha256 of every weights file.

    Raises:
      UserError: no part there, a format of another version, an edited `part.json`, or a weights file that is missing,
        damaged or none.
    """
    directory = locate(directory)
    info = read_info(directory)
    if info["format"] != UNSEALED and info.get("seal") != seal(info):
        raise UserError(
            f"{directory / INFO_FILE} was edited: its sha256 is not the one that it was written with; export it again"
        )
    flat: dict[str, np.ndarray] = {}
    for filename, expected in info["files"].items():
        flat |= _read_weights(directory, filename, expected)
    if info["format"] == UNSEALED and info["dtype"] in ("float32", "mixed"):
        _verify_id(directory, info, flat)
    return _from_info(info, flat)


def read_info(directory: str | os.PathLike) -> dict[str, Any]:
    """The contents of `part.json` without reading weights (id, parents, training, ...).

    Raises:
      UserError: no readable part of this format there.
    """
    path = locate(directory) / INFO_FILE
    info = read_object(path, f"{directory} is not a part: it holds no {INFO_FILE}")
    missing = ({"format"} | set(FIELDS)) - set(info)
    if missing or info["format"] not in (FORMAT, UNSEALED):
        raise UserError(f"{path} is not of part format {FORMAT}; missing: {', '.join(sorted(missing)) or 'nothing'}")
    check_fields(path, info, FIELDS)
    for name in ("parents", "files"):
        if not all(isinstance(value, str) for value in info[name].values()):
            raise UserError(f"{path}: {name} must name strings")
    return info


def check_fields(path: Path, info: Mapping[str, Any], fields: Mapping[str, type]) -> None:
    """Refuses an object of which a field has another type; fields must be there.

    Raises:
      UserError: the first such field.
    """
    kinds = {str: "a string", dict: "an object", list: "a list"}
    for name, kind in fields.items():
        if not isinstance(info[name], kind):
            raise UserError(f"{path}: {name} must be {kinds[kind]}, not {type(info[name]).__name__}")


def seal(info: Mapping[str, Any]) -> str:
    """sha256 over all fields of `part.json` (or bundle.json) but the seal itself."""
    rest = {name: value for name, value in info.items() if name != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_weights(directory: Path, filename: str, expected: str) -> dict[str, np.ndarray]:
    path = directory / filename
    if pathlib.PurePath(filename).name != filename:
        raise UserError(f"{directory / INFO_FILE} lists the weights file {filename!r}, which is not in its folder")
    if not path.is_file():
        raise UserError(f"{directory} is incomplete: weights file {filename} is missing")
    with storage.fetched(path) as file:
        if _sha256(file) != expected:
            raise UserError(f"{path} is damaged: its sha256 is not the one in {INFO_FILE}; copy or export it again")
        try:
            return load_file(file)
        except (SafetensorError, ValueError, KeyError, OSError) as error:
            raise UserError(f"{path} is no safetensors file: {error}") from None


def _verify_id(directory: Path, info: dict[str, Any], flat: dict[str, np.ndarray]) -> None:
    covered = {name: info[name] for name in ("format", "name", "config", "geometry", "parents")}
    if _identity(covered, flat) != info["id"]:
        raise UserError(f"{directory / INFO_FILE} was edited: its id is not that of its config, geometry and weights")


def locate(directory: str | os.PathLike) -> Path:
    """`directory` itself, or its sub-folder "part" where the training loop puts a stage's part."""
    directory = storage.path(directory)
    inner = directory / "part"
    return inner if (inner / INFO_FILE).is_file() and not (directory / INFO_FILE).is_file() else directory


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> flat dict with "/" between the names, sorted; empty dicts vanish."""
    flat: dict[str, Any] = {}
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, leaf = key.split("/")
        node = tree
        for name in path:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def _from_info(info: dict[str, Any], flat: dict[str, np.ndarray]) -> Part:
    return Part(
        name=info["name"],
        params=unflatten(flat),
        config=info["config"],
        geometry=read_geometry(info["geometry"], f"part {info['name']}"),
        id=info["id"],
        parents=info["parents"],
        training=info["training"],
        dtype=info["dtype"],
    )


def read_geometry(plain: dict[str, Any], owner: str) -> Geometry:
    """A geometry from a file of `owner`.

    Raises:
      UserError: it is none.
    """
    try:
        return config_lib.from_dict(Geometry, plain)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise UserError(f"{owner}: its geometry makes no sense: {error}") from None


def _identity(info: dict[str, Any], flat: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(info, sort_keys=True).encode())
    for key in sorted(flat):
        digest.update(f"\n{key} {flat[key].dtype.name} {flat[key].shape}\n".encode())
        digest.update(flat[key].tobytes())
    return digest.hexdigest()


def _is_float(leaf: np.ndarray) -> bool:
    return leaf.dtype in (*_FLOATS.values(), np.dtype(np.float64))


def _float_dtype(flat: dict[str, np.ndarray]) -> str:
    dtypes = {leaf.dtype.name for leaf in flat.values() if _is_float(leaf)}
    return dtypes.pop() if len(dtypes) == 1 else "mixed"


def cast(name: str, flat: dict[str, np.ndarray], dtype: str | None) -> dict[str, np.ndarray]:
    """Floating-point arrays in `dtype` ("float32", "float16", "bfloat16"; None keeps them).

    Raises:
      UserError: another dtype, or numbers that are not finite in it.
    """
    if dtype is None:
        return flat
    if dtype not in _FLOATS:
        raise UserError(f"unknown dtype {dtype!r} for weights; choose one of {', '.join(_FLOATS)}")
    result = {}
    with np.errstate(over="ignore"):
        for key, leaf in flat.items():
            result[key] = leaf.astype(_FLOATS[dtype]) if _is_float(leaf) else leaf
    broken = [key for key in flat if _is_float(flat[key]) and not np.isfinite(result[key].astype(np.float32)).all()]
    if broken:
        raise UserError(f"part {name}: weights {broken[0]} are not finite as {dtype}; export as float32 or bfloat16")
    return result


def _shards(
    name: str, flat: dict[str, np.ndarray], max_bytes: int | None
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Groups tensors, in name order, into files of at most `max_bytes` (64 KiB are kept for each header)."""
    if max_bytes is None:
        yield "weights.safetensors", flat
        return
    groups: list[dict[str, np.ndarray]] = [{}]
    used, room = 0, max_bytes - 65_536
    for key, leaf in flat.items():
        if leaf.nbytes > room:
            raise UserError(
                f"part {name}: tensor {key} alone takes {leaf.nbytes} bytes, over the {max_bytes} of a file"
            )
        if used + leaf.nbytes > room:
            groups.append({})
            used = 0
        groups[-1][key] = leaf
        used += leaf.nbytes
    for index, group in enumerate(groups, start=1):
        suffix = "" if len(groups) == 1 else f"-{index:05d}-of-{len(groups):05d}"
        yield f"weights{suffix}.safetensors", group


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_foreign(directory: Path) -> None:
    """A part replaces only a part: never a directory with anything else in it (checkpoints, say)."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UserError(f"cannot write part {directory}: a file of that name exists")
    ours = (INFO_FILE, UNFINISHED)
    foreign = [p.name for p in directory.iterdir() if p.name not in ours and p.suffix != ".safetensors"]
    if foreign:
        raise UserError(f"cannot write part {directory}: the directory holds other things ({min(foreign)})")
