"""How T5X lays out variables, axes and checkpoints, and parts in that layout. Nothing here needs T5X.

A checkpoint MODEL_DIR/checkpoint_N holds, as Orbax's item "state", the tree

    target           the learnt parameters, by our names
    flax_mutables    {"measured": what is measured}, where the stage measures anything
    state            {"step", "param_states": the optimiser's}; a converted part has the step alone
"""

import os
import pathlib
import re
from typing import Any, get_type_hints

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn
from flax.linen.partitioning import AxisMetadata

from melody_jax import config as config_lib
from melody_jax.bundle.part import Part, flatten, save_part, unflatten
from melody_jax.errors import UserError
from melody_jax.nn.measured import MEASURED, joined
from melody_jax.parallel.rules import RULES
from melody_jax.stages.dpd import DPDStage
from melody_jax.stages.lm import LMStage
from melody_jax.train.optim import OptimConfig
from melody_jax.train.stage import Stage
from melody_jax.train.start import listed

STAGES: dict[str, Any] = {stage.name: stage for stage in (LMStage, DPDStage)}
"""The stages that T5X can train, by name: those that read tokens."""

_ITEM, _PREFIX = "state", "checkpoint"
_MESH = {"fsdp": "data", "tensor": "model"}
"""Our mesh axes -> T5X's; the batch lies on its "data"."""


def logical_axis_rules() -> list[tuple[str, str | None]]:
    """Our table of logical axes (`parallel.rules.RULES`) for T5X's mesh: [(logical axis, "data", "model" or None)]."""
    rules = {name: next((_MESH[axis] for axis in axes if axis in _MESH), None) for name, axes in RULES.items()}
    return list(rules.items())


def initial_variables(stage: Stage, key: jax.Array) -> dict[str, Any]:
    """What T5X's `get_initial_variables` returns: "params" and "measured" (if any), with their "..._axes" beside them."""
    state = stage.init(key)
    trees = {"params": state.params} | ({MEASURED: state.measured} if state.measured else {})
    variables: dict[str, Any] = {}
    for name, tree in trees.items():
        variables |= {name: nn.unbox(tree), f"{name}_axes": _axes(tree)}
    return variables


def _axes(boxed: Any) -> dict[str, Any]:
    """The logical axes of a tree of boxes: NAME_axes for every NAME. A dimension of size 1 stays whole."""
    axes = {}
    for name, leaf in flatten(boxed).items():
        if isinstance(leaf, nn.LogicallyPartitioned):
            names = tuple(None if size == 1 else axis for size, axis in zip(leaf.value.shape, leaf.names, strict=True))
        else:
            names = (None,) * leaf.ndim
        axes[f"{name}_axes"] = AxisMetadata(names=names)
    return unflatten(axes)


def export_part(part: Part, out: str | os.PathLike, step: int = 0) -> pathlib.Path:
    """Writes a part as the T5X checkpoint OUT/checkpoint_STEP, without an optimiser's state.

    Raises:
      UserError: the part is of another stage, or there is a checkpoint of this step.
    """
    if part.name not in STAGES:
        raise UserError(f"T5X trains {' and '.join(STAGES)}, not {part.name}")
    directory = pathlib.Path(out).absolute()
    target = dict(part.params)
    kind = STAGES[part.name]
    config = config_lib.from_dict(get_type_hints(kind)["config"], part.config)
    measured = {name: target.pop(name) for name in _abstract(kind(config, part.geometry, OptimConfig(), 1)).measured}
    tree = {"target": target, "state": {"step": np.int32(step)}}
    tree |= {"flax_mutables": {MEASURED: measured}} if measured else {}
    with _manager(directory) as manager:
        if step in manager.all_steps():
            raise UserError(f"{directory / f'{_PREFIX}_{step}'} exists")
        manager.save(step, args=ocp.args.Composite(**{_ITEM: ocp.args.PyTreeSave(tree)}))
    return directory / f"{_PREFIX}_{step}"


def import_checkpoint(source: str | os.PathLike, stage: Stage, out: str | os.PathLike) -> Part:
    """Reads a T5X checkpoint and writes its parameters as the part of `stage`, which gives config, geometry and parents.

    Args:
      source: the folder checkpoint_N.
      stage: configured as in the run that made it, with its `parents_dir`.
      out: the part's directory.

    Raises:
      UserError: no checkpoint there, or parameters that are missing, extra or of other shapes than the stage's.
    """
    folder = pathlib.Path(source).absolute()
    found = re.fullmatch(rf"{_PREFIX}_(\d+)", folder.name)
    if not found or not (folder / _ITEM).is_dir():
        raise UserError(f"{source} is no T5X checkpoint: a folder {_PREFIX}_N with {_ITEM}/ in it")
    tree = _read(folder / _ITEM)
    params = joined(tree.get("target", {}), tree.get("flax_mutables", {}).get(MEASURED, {}))
    _check(params, stage, folder)
    config, geometry, parents = stage.part()
    training = {"steps": int(found[1]), "source": f"T5X {folder.parent.name}/{folder.name}"}
    return save_part(out, stage.name, params, config, geometry, parents, training)


def _manager(directory: pathlib.Path) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(directory, options=ocp.CheckpointManagerOptions(step_prefix=_PREFIX))


def _read(folder: pathlib.Path) -> dict[str, Any]:
    """target and flax_mutables of a state as host arrays; the optimiser's part of it is left on disk."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        stored: Any = checkpointer.metadata(folder).item_metadata
        wanted = {name: stored[name] for name in ("target", "flax_mutables") if name in stored}
        host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        return checkpointer.restore(folder, ocp.args.PyTreeRestore(wanted, restore_args=host, partial_restore=True))


def _abstract(stage: Stage) -> Any:
    """The shapes of the stage's state."""
    return nn.unbox(jax.eval_shape(stage.init, jax.ShapeDtypeStruct((2,), np.uint32)))


def _check(params: dict[str, Any], stage: Stage, folder: pathlib.Path) -> None:
    state = _abstract(stage)
    expected = {name: leaf.shape for name, leaf in flatten(joined(state.params, state.measured)).items()}
    shapes = {name: leaf.shape for name, leaf in flatten(params).items()}
    problems = {
        "missing": sorted(set(expected) - set(shapes)),
        "extra": sorted(set(shapes) - set(expected)),
        "wrongly shaped": [
            f"{name} {list(shapes[name])} instead of {list(shape)}"
            for name, shape in expected.items()
            if shapes.get(name, shape) != shape
        ],
    }
    said = "; ".join(f"{kind}: {listed(names)}" for kind, names in problems.items() if names)
    if said:
        raise UserError(f"{folder} is no {stage.name} of this configuration; {said}")
