"""The state that a run begins with: that of a checkpoint, or a new one with random weights or those of a part."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from melody_jax import config as config_lib
from melody_jax.bundle.part import Part, flatten, load_part
from melody_jax.errors import UserError
from melody_jax.nn.measured import joined
from melody_jax.parallel.batch import check_batch_size
from melody_jax.parallel.init import place, sharded_init
from melody_jax.storage import Path
from melody_jax.train.checkpoint import Checkpoints, Record
from melody_jax.train.local import LocalCheckpoints
from melody_jax.train.run import Run
from melody_jax.train.stage import Batches, HostBatch, Stage, endless
from melody_jax.train.state import TrainState

UNUSED = "unused"
"""Where an imported part keeps tensors that only the original model has, and that ours does not read."""

_SHOWN = 12  # names in a message


def begin(
    stage: Stage,
    batches: Batches,
    run: Run,
    mesh: Mesh,
    checkpoints: Checkpoints,
    local: LocalCheckpoints | None = None,
) -> tuple[TrainState, Record]:
    """The state that a run starts from, with `batches` moved to its position, and the record for its checkpoints.

    Of checkpoints in the run's folder and on the hosts' disks it is the newest.

    Raises:
      UserError: the checkpoints belong to another configuration, parent or data set, or see `initial_state`, `start_from`.
    """
    config, geometry, parents = stage.part()
    own = {"config": config_lib.to_dict(config), "geometry": config_lib.to_dict(geometry), "parents": dict(parents)}
    state = initial_state(stage, run.seed, mesh)
    moved = None if run.restart_data else batches
    restored = local.restore(state, moved, after=checkpoints.latest) if local else None
    restored = restored or checkpoints.restore(state, moved)
    if local:
        local.discard(after=int(restored.state.step) if restored else -1)
    if restored is not None:
        _check_same_run(restored.record["part"], own, run.folder(stage.name))
        return restored.state, restored.record | {"part": own}
    state, started = start_from(stage, state, run.init_from)
    if run.measure:
        state = calibrated(stage, state, endless(batches))
    return state, {"seconds": 0.0, "evaluation": {}, "part": own, "init_from": started}


def initial_state(stage: Stage, seed: int, mesh: Mesh) -> TrainState:
    """The state before step 0 with `stage.load`'s weights, every array where the rules put it.

    The parents' weights (`frozen`) are whole on every device.

    Raises:
      UserError: parameters or batch do not fit the mesh, or a parent is missing.
    """
    check_batch_size(stage.batch_size, mesh)
    state = sharded_init(stage.init, jax.random.PRNGKey(seed), mesh)
    layout = jax.tree.map(lambda leaf: leaf.sharding, state.replace(frozen={}))
    loaded = stage.load(state)
    whole = NamedSharding(mesh, PartitionSpec())
    placed = jax.tree.map(place, loaded.replace(frozen={}), layout)
    return placed.replace(frozen=jax.tree.map(lambda leaf: place(leaf, whole), loaded.frozen))


def calibrated(stage: Stage, state: TrainState, batches: Iterator[HostBatch]) -> TrainState:
    """The state before step 0 with what the stage measures on its first batches, placed as the rules put it."""
    layout = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.tree.map(place, stage.calibrate(state, batches), layout)


def start_from(stage: Stage, state: TrainState, directories: Sequence[str]) -> tuple[TrainState, list[dict[str, Any]]]:
    """The state with the weights of parts in their places (`Stage.starts`), laid out as before, and a record of them.

    Parameters that a part lacks stay random. Where it has fewer residual layers (`Stage.residual`), the others add nothing to
    their input, and the network begins as what the part was. Measured values are taken from the part until the stage measures
    again. Of longer tables of positions (`Stage.positions`) the first rows are taken.

    Raises:
      UserError: there is no part, the stage has no place for it, or it has extra parameters or other shapes.
    """
    record = []
    for directory in directories:
        part = load_part(directory)
        if part.name not in stage.starts:
            raise UserError(f"{directory} is a {part.name}; {stage.name} starts from {' or '.join(stage.starts)}")
        values = _fitted(part, stage, state, directory)
        places = flatten(state.params)
        used = sum(values[name].size for name in values.keys() & places.keys())
        values |= _added_by_new_layers(stage.residual, places, values)
        params, measured = (_replaced(tree, values) for tree in (state.params, state.measured))
        ema = None if state.ema is None else _replaced(state.ema, values, stage.averaged_part)
        state = state.replace(params=params, measured=measured, ema=ema)
        record.append({"part": part.name, "id": part.id, "parameters": used})
    return state, record


def _check_same_run(saved: dict[str, Any], now: dict[str, Any], directory: Path) -> None:
    """Checkpoints are bound to geometry and parents; loss weights, dtypes and learning rates may change."""
    for key in ("geometry", "parents"):
        different = [name for name in sorted(saved[key] | now[key]) if saved[key].get(name) != now[key].get(name)]
        if different:
            raise UserError(
                f"{directory} was begun with another {different[0]} ({key}: {saved[key].get(different[0])}, now "
                f"{now[key].get(different[0])}); remove it to train the stage anew"
            )


def _fitted(part: Part, stage: Stage, state: TrainState, directory: str) -> dict[str, np.ndarray]:
    """The part's values by their names in the state's parameters and measured values."""
    places, below = flatten(joined(state.params, state.measured)), stage.starts[part.name]
    flat = {name: value for name, value in flatten(part.params).items() if name.partition("/")[0] != UNUSED}
    new = {f"{below}/{name}".lstrip("/"): value for name, value in flat.items()}
    unknown = sorted(set(new) - set(places))
    if unknown:
        raise UserError(f"{directory}: {stage.name} has no parameters {listed(unknown)}; is its configuration another?")
    fitted = {name: _fit(value, places[name].shape, name in stage.positions) for name, value in new.items()}
    wrong = [
        f"{name} {list(new[name].shape)} instead of {list(places[name].shape)}" for name in new if fitted[name] is None
    ]
    if wrong:
        raise UserError(f"{directory} does not fit {stage.name}'s configuration: {listed(wrong)}")
    return {name: value for name, value in fitted.items() if value is not None}


def _added_by_new_layers(
    residual: str, places: Mapping[str, Any], values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Zeros for the last products, "out", of residual layers that are not among the values while the first of them is."""
    found = {}
    for name in places.keys() - values.keys():
        before, layer, inside = name.partition(f"{residual}_")
        first = f"{before}{layer}0/{inside.partition('/')[2]}"
        if residual and first in values and name.split("/")[-2] == "out":
            found[name] = np.zeros(places[name].shape, np.float32)
    return found


def _replaced(tree: Any, values: Mapping[str, np.ndarray], below: str = "") -> Any:
    """The tree, which has the name `below` in the state, with these values replaced."""

    def started(path: tuple[Any, ...], leaf: Any) -> Any:
        value = values.get(f"{below}/{jax.tree_util.keystr(path, simple=True, separator='/')}".lstrip("/"))
        return leaf if value is None else place(np.asarray(value, leaf.dtype), leaf.sharding)

    # not through the flat names, which would lose an empty branch that the optimiser's tree also has
    return jax.tree_util.tree_map_with_path(started, tree)


def _fit(value: np.ndarray, shape: tuple[int, ...], cut: bool) -> np.ndarray | None:
    """The value, or its first rows, in `shape`; None where that cannot be."""
    if value.shape == shape:
        return value
    if not cut or value.ndim != len(shape) or any(have < want for have, want in zip(value.shape, shape, strict=True)):
        return None
    return value[tuple(slice(size) for size in shape)]


def listed(names: Sequence[str]) -> str:
    """Names for a message: the first few of many."""
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
