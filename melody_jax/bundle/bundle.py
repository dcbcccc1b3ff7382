"""A bundle: the parts that sampling needs, which belong together, in one directory.

bundle.json                geometry, vocabulary, parts with ids, references, defaults for sampling
MODEL_CARD.md              for people
tokenizer.json             only where the text tower does not use the tokenizer of its package
PART/part.json, PART/*.safetensors
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from melody_jax import config as config_lib
from melody_jax import graph, storage
from melody_jax.bundle.adapter import with_adapters
from melody_jax.bundle.card import Card, render
from melody_jax.bundle.lineage import check_lineage, short
from melody_jax.bundle.part import (
    INFO_FILE,
    UNSEALED,
    Part,
    check_fields,
    load_part,
    locate,
    read_geometry,
    read_info,
    save_part,
    seal,
)
from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.errors import UserError, exporting
from melody_jax.files import UNFINISHED, placing, read_object, write_whole
from melody_jax.geometry import Geometry
from melody_jax.mulan import minilm
from melody_jax.mulan.config import PretrainedText
from melody_jax.storage import Path

BUNDLE_FILE = "bundle.json"
CARD_FILE = "MODEL_CARD.md"
TOKENIZER_FILE = "tokenizer.json"
FORMAT = 2
FIELDS = {"geometry": dict, "parts": dict, "references": dict, "sampling": dict, "vocabulary": dict}
REQUIRED = graph.SAMPLING
OPTIONAL = tuple(name for name in graph.ORDER if name not in REQUIRED)
TEXT_REFERENCE = "mulan/text"


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Attributes:
      directory: where it was loaded from.
      parts: name -> part, weights in the dtype of the files.
      geometry: of all parts.
      references: weights that are not in the bundle but in a Python package: "part/parameters" -> package, version,
        sha256.
      sampling: defaults for sampling that suit these weights (names as in `generate.Settings`).
    """

    directory: Path
    parts: dict[str, Part]
    geometry: Geometry
    references: dict[str, dict[str, str]]
    sampling: dict[str, Any]

    @property
    def ids(self) -> dict[str, str]:
        """Name -> id of every part."""
        return {name: part.id for name, part in self.parts.items()}

    @property
    def tokenizer(self) -> Path | None:
        """The tokenizer.json that the bundle carries, if it carries one."""
        path = self.directory / TOKENIZER_FILE
        return path if path.is_file() else None

    @classmethod
    def load(cls, directory: str | os.PathLike, adapters: Mapping[str, float] | None = None) -> "Bundle":
        """Reads a bundle and verifies every file's sha256 and the parts' lineage.

        Args:
          adapters: folder -> weight of adapters that are added to its parts (`adapter.with_adapters`).

        Raises:
          UserError: no bundle there, a damaged or missing file, parts that were not trained together, or an adapter of other
            parts.
        """
        directory = storage.path(directory)
        info = _read_info(directory)
        parts = {name: load_part(directory / name) for name in info["parts"]}
        check_lineage(parts)
        for name, part in parts.items():
            listed = info["parts"][name]["id"]
            if part.name != name or part.id != listed:
                raise UserError(
                    f"{directory / name} holds the part {part.name} {short(part.id)}, but {BUNDLE_FILE} lists {name} "
                    f"{short(listed)}; export the bundle again"
                )
        geometry = read_geometry(info["geometry"], str(directory / BUNDLE_FILE))
        if geometry != parts["lm"].geometry:
            raise UserError(f"{directory / BUNDLE_FILE} was edited: its geometry is not that of its parts")
        ids, ours = info["vocabulary"].get("size"), vocabulary_of(parts["lm"]).size
        if ids != ours:
            raise UserError(
                f"{directory}: its language model has {ids} ids, one of this version has {ours}; what controls are told in has "
                "changed since: train it again, or use the version that made it"
            )
        for reference in info["references"].values():
            config_lib.from_dict(PretrainedText, reference)
        if not parts["mulan"].config.get("train_text_tower", True) and TEXT_REFERENCE not in info["references"]:
            raise UserError(f"{directory / BUNDLE_FILE} does not say where the weights of the text tower are")
        return cls(directory, with_adapters(parts, adapters or {}), geometry, info["references"], info["sampling"])


def export(
    sources: Iterable[str | os.PathLike],
    out: str | os.PathLike,
    dtype: str | None = "float16",
    card: Card | None = None,
    sampling: Mapping[str, Any] | None = None,
    max_file_bytes: int | None = None,
    tokenizer: str | os.PathLike | None = None,
    adapters: Mapping[str, float] | None = None,
) -> Bundle:
    """Collects parts into a bundle.

    Args:
      sources: one directory per part (or the stage's folder above it).
      out: the bundle's directory; the files of an older bundle there are replaced, other files beside them stay; a folder
        of other things alone is refused.
      dtype: of the stored weights, "float32", "float16" or "bfloat16"; None keeps each part's.
      card: fields of the model card.
      sampling: defaults for sampling.
      max_file_bytes: split weights into files of at most this size.
      tokenizer: a tokenizer.json to carry along.
      adapters: folder -> weight of adapters that become one with the parts (`adapter.with_adapters`).

    Raises:
      UserError: a part is missing, given twice, damaged or was not trained together with another, or `out` is taken.
      OSError: the disk is full or refuses; what stood in `out` stays.
    """
    out = storage.path(out)
    known = any((out / name).is_file() for name in (BUNDLE_FILE, UNFINISHED))
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not known)):
        raise UserError(f"cannot export to {out}: it exists and is not a bundle")
    taken = [path for name in (*REQUIRED, *OPTIONAL) if (path := out / name).exists() and not path.is_dir()]
    if taken:
        raise UserError(f"cannot export to {out}: {taken[0].name} there is not a folder")
    parts = _collect(sources)
    check_lineage(parts)
    parts = with_adapters(parts, adapters or {})
    fresh = not out.exists()
    scratch = _scratch(out)
    try:
        with exporting(out):
            scratch.mkdir(parents=True, exist_ok=True)
            _write(scratch, parts, dtype, card or Card(), dict(sampling or {}), max_file_bytes, tokenizer)
            Bundle.load(scratch)
            _place(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if fresh and isinstance(out, pathlib.Path) and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    return Bundle.load(out)


def finished_in(model_dir: str | os.PathLike, names: Sequence[str], needed: Sequence[str] = ()) -> list[Path]:
    """Where in a model folder the finished parts of these names are, in this order; a folder that is a part is alone.

    Raises:
      UserError: it is no folder, lacks a part that is needed, or has none.
    """
    folder = storage.path(model_dir)
    if not folder.is_dir():
        raise UserError(f"--model_dir {folder} is not a folder")
    there = {name: folder / name for name in names if (locate(folder / name) / INFO_FILE).is_file()}
    absent = [name for name in needed if name not in there]
    if absent:
        raise UserError(f"{folder} holds no finished {absent[0]} (needed: {', '.join(needed)})")
    if not needed and (locate(folder) / INFO_FILE).is_file():
        return [folder]
    if not there:
        raise UserError(f"{folder} holds no part and no finished stage of {', '.join(names)}")
    return [*there.values()]


def bundle_bytes(directory: str | os.PathLike) -> dict[str, int]:
    """Size in bytes of every file of a bundle, by its path inside it."""
    return storage.files_below(storage.path(directory))


def _collect(sources: Iterable[str | os.PathLike]) -> dict[str, Part]:
    found: dict[str, Part] = {}
    for source in sources:
        part = load_part(locate(source))
        if part.name in found:
            raise UserError(f"the part {part.name} is given twice, the second time in {source}")
        found[part.name] = part
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise UserError(f"a bundle needs the parts {', '.join(REQUIRED)}; missing: {', '.join(missing)}")
    return {name: found[name] for name in (*REQUIRED, *OPTIONAL) if name in found}


def _write(
    directory: Path,
    parts: dict[str, Part],
    dtype: str | None,
    card: Card,
    sampling: dict[str, Any],
    max_file_bytes: int | None,
    tokenizer: str | os.PathLike | None,
) -> None:
    written = {}
    for name, part in parts.items():
        written[name] = save_part(
            directory / name,
            name,
            part.params,
            part.config,
            part.geometry,
            part.parents,
            part.training,
            dtype=dtype,
            part_id=part.id,
            max_file_bytes=max_file_bytes,
        )
    geometry = parts["lm"].geometry
    vocabulary = vocabulary_of(parts["lm"])
    references = _references(parts)
    info = {
        "format": FORMAT,
        "geometry": config_lib.to_dict(geometry),
        "vocabulary": config_lib.to_dict(vocabulary)
        | {"size": vocabulary.size, "specials": {n: getattr(vocabulary, n) for n in ("pad", "bos", "eos", "unknown")}},
        "parts": {name: {"id": p.id, "parameters": p.parameters, "dtype": p.dtype} for name, p in written.items()},
        "references": references,
        "sampling": sampling,
        "tokenizer": None if tokenizer is None else _sha256(storage.path(tokenizer)),
    }
    info["seal"] = seal(info)
    (directory / BUNDLE_FILE).write_text(json.dumps(info, indent=1) + "\n")
    if tokenizer is not None:
        write_whole(directory / TOKENIZER_FILE, storage.path(tokenizer).read_bytes())
    size = sum(bundle_bytes(directory).values())
    (directory / CARD_FILE).write_text(render(card, written, references, size))


def vocabulary_of(lm: Part) -> Vocabulary:
    """The ids of a language model."""
    return Vocabulary.of(lm.geometry, bool(lm.config.get("controls")))


def _references(parts: Mapping[str, Part]) -> dict[str, dict[str, str]]:
    """The text tower's package, where its weights were frozen and so are in no part.

    A config may leave version and hash open ("any"); a bundle says which weights it was made with.
    """
    config = parts["mulan"].config
    if config.get("train_text_tower", True):
        return {}
    given = config["pretrained_text"]
    if not (given["version"] and given["sha256"]):
        given = config_lib.to_dict(minilm.reference(given["package"])) | {k: v for k, v in given.items() if v}
    return {TEXT_REFERENCE: dict(given)}


def _read_info(directory: Path) -> dict[str, Any]:
    path = directory / BUNDLE_FILE
    info = read_object(path, f"{directory} is not a bundle: it holds no {BUNDLE_FILE}")
    missing = ({"format"} | set(FIELDS)) - set(info)
    if missing or info["format"] not in (FORMAT, UNSEALED):
        raise UserError(f"{path} is not of bundle format {FORMAT}; it was written by another version")
    check_fields(path, info, FIELDS)
    for name, listed in info["parts"].items():
        if name not in (*REQUIRED, *OPTIONAL) or not isinstance(listed, dict) or not isinstance(listed.get("id"), str):
            raise UserError(f"{path}: parts must give the id of each of {', '.join((*REQUIRED, *OPTIONAL))}")
    absent = [name for name in REQUIRED if name not in info["parts"]]
    if absent:
        raise UserError(f"{path} lists no part {absent[0]}")
    if info["format"] != UNSEALED:
        _check_seal(directory, info)
    return info


def _check_seal(directory: Path, info: dict[str, Any]) -> None:
    if info.get("seal") != seal(info):
        raise UserError(
            f"{directory / BUNDLE_FILE} was edited: its sha256 is not the one that it was written with; export it again, "
            "with --sampling NAME=VALUE for other defaults"
        )
    file, listed = directory / TOKENIZER_FILE, info.get("tokenizer")
    if listed != (_sha256(file) if file.is_file() else None):
        raise UserError(f"{file} is not the tokenizer that {BUNDLE_FILE} lists; export the bundle again")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _exported(directory: Path) -> list[Path]:
    """What an export wrote into a bundle: the files of the bundle, and of each of its parts."""
    found = [directory / name for name in (BUNDLE_FILE, CARD_FILE, TOKENIZER_FILE)]
    for part in (directory / name for name in (*REQUIRED, *OPTIONAL)):
        if not (part / INFO_FILE).is_file():
            continue
        try:
            weights = list(read_info(part)["files"])
        except UserError:
            weights = ["weights.safetensors"]
        found += [part / INFO_FILE, *(part / pathlib.PurePath(name).name for name in weights)]
    return [path for path in found if path.is_file()]


def _scratch(out: Path) -> pathlib.Path:
    """A folder to write the bundle to: inside `out`, where a rename is one step and the folder above need not be writable.

    Raises:
      UserError: `out` is in a bucket that may not be written to.
    """
    if not isinstance(out, pathlib.Path):
        storage.check_writable(out)
        return pathlib.Path(tempfile.mkdtemp(prefix="melody-"))
    scratch = out / f".export-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    return scratch


def _place(scratch: pathlib.Path, out: Path) -> None:
    """Moves the files of `scratch` into `out`, where an older export's go and everything else stays.

    bundle.json goes first and comes last: a folder that is half written is no bundle.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not isinstance(out, pathlib.Path):
        for path in _exported(out):
            path.unlink()
        storage.upload(scratch, out, [name for name in storage.files_below(scratch) if name != BUNDLE_FILE])
        storage.upload(scratch, out, [BUNDLE_FILE])
        return
    files = sorted((path for path in scratch.rglob("*") if path.is_file()), key=lambda path: path.name == BUNDLE_FILE)
    with placing(out):
        for path in _exported(out):
            path.unlink()
        for path in files:
            target = out / path.relative_to(scratch)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
