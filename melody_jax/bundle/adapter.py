"""Low-rank adapters (LoRA; Hu et al., 2021, arXiv 2106.09685): small products that are added to the kernels of a part.

An adapter is a part of its own, called "adapter", whose parent is the part that it was trained on. A kernel W [..., I, O]
becomes W + (alpha / rank) down up, with down [..., I, rank] and up [..., rank, O]; leading axes (layers, taps) each have
their own.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from melody_jax import storage
from melody_jax.bundle.lineage import short
from melody_jax.bundle.part import INFO_FILE, Part, load_part, locate
from melody_jax.config import from_dict
from melody_jax.errors import UserError
from melody_jax.storage import Path

NAME = "adapter"
DOWN, UP = "down", "up"


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """What an adapter is of.

    Attributes:
      of: name of the part that it changes.
      rank: inner width of every product; kernels that are not wider in both directions have none.
      alpha: what is added is alpha / rank times the product, so that the rank may change with the learning rate kept.
    """

    of: str
    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self):
        if self.rank < 1:
            raise UserError(f"adapter: a rank of {self.rank}; it is at least 1")

    @property
    def scale(self) -> float:
        """What the products are multiplied with."""
        return self.alpha / self.rank


def merged(params: Mapping[str, Any], adapter: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """`params` with scale * down @ up added to every kernel that the adapter has a pair for; dtypes stay."""
    result = dict(params)
    for name, pair in adapter.items():
        if set(pair) == {DOWN, UP}:
            kernel = params[name]
            change = np.float32(scale) * (pair[DOWN] @ pair[UP])
            result[name] = (kernel.astype(change.dtype) + change).astype(kernel.dtype)
        else:
            result[name] = merged(params[name], pair, scale)
    return result


def adapted(part: Part, adapters: Sequence[tuple[Part, float]]) -> Part:
    """The part with weighted adapters added, in their order; it has an id of its own.

    Raises:
      UserError: one of them is no adapter, or was trained on another part.
    """
    params, added = part.params, []
    for adapter, weight in adapters:
        config = _config(adapter)
        if adapter.parents.get(part.name) != part.id:
            trained_on = short(adapter.parents.get(config.of, "nothing"))
            raise UserError(
                f"the adapter {short(adapter.id)} was trained on {config.of} {trained_on}, not {short(part.id)}"
            )
        wide = float32(adapter.params)
        params = merged(float32(params), wide, weight * config.scale)
        added.append([adapter.id, weight])
    if not added:
        return part
    digest = hashlib.sha256(json.dumps([part.id, added]).encode()).hexdigest()
    return dataclasses.replace(
        part, params=params, id=digest, dtype="float32", training={**part.training, "adapters": added}
    )


def with_adapters(parts: Mapping[str, Part], adapters: Mapping[str, float]) -> dict[str, Part]:
    """The parts, with adapters on those that they were trained on.

    Args:
      adapters: folder -> weight (1 as trained, 0 nothing). A folder is an adapter, or holds one for each of several parts,
        as `melody finetune` leaves them.

    Raises:
      UserError: no adapter there, a weight that is not finite, or one that was trained on another part.
    """
    found: dict[str, list[tuple[Part, float]]] = {}
    for directory, weight in adapters.items():
        if not np.isfinite(weight):
            raise UserError(f"adapter {directory}: a weight of {weight}; it must be a finite number")
        for adapter in _load(storage.path(directory)):
            found.setdefault(_config(adapter).of, []).append((adapter, float(weight)))
    unknown = sorted(set(found) - set(parts))
    if unknown:
        raise UserError(f"there is no part {unknown[0]} for its adapter")
    return {name: adapted(part, found.get(name, ())) for name, part in parts.items()}


def _load(directory: Path) -> list[Part]:
    alone = (locate(directory) / INFO_FILE).is_file()
    folders = [directory] if alone else sorted(path for path in directory.glob("*") if path.is_dir())
    parts = [load_part(folder) for folder in folders if (locate(folder) / INFO_FILE).is_file()]
    found = [part for part in parts if part.name == NAME]
    if not found:
        raise UserError(f"{directory} holds no adapter; `melody finetune --lora RANK` makes them")
    return found


def _config(adapter: Part) -> AdapterConfig:
    if adapter.name != NAME:
        raise UserError(f"the part {adapter.name} {short(adapter.id)} is no adapter")
    return from_dict(AdapterConfig, adapter.config)


def float32(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A part's parameters with floating-point numbers in float32, as adapters are added to."""

    def wide(leaf: Any) -> Any:
        if isinstance(leaf, Mapping):
            return float32(leaf)
        return leaf.astype(np.float32) if leaf.dtype.kind in "fV" else leaf

    return {name: wide(leaf) for name, leaf in tree.items()}
