"""Starting from weights that exist: a part's parameters take the place of a stage's random ones."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from melody_jax.bundle.part import Part, flatten, load_part, unflatten
from melody_jax.errors import UserError
from melody_jax.parallel.init import place
from melody_jax.train.stage import Stage
from melody_jax.train.state import TrainState

UNUSED = "unused"
"""Where a part keeps what no model reads (an imported part: tensors that only the original has)."""

_SHOWN = 12  # names in a message


def start_from(stage: Stage, state: TrainState, directories: Sequence[str]) -> tuple[TrainState, list[dict[str, Any]]]:
    """The state with the weights of parts in their places (`Stage.starts`), laid out as before, and a record of them.

    What a part does not have stays random; what the stage measures anew (`Stage.measured`) is left out. Tables of
    positions (`Stage.positions`) may be longer than the model's: their first rows are taken.

    Raises:
      UserError: no part there, a part that the stage has no place for, or parameters that are extra or of other shapes.
    """
    record = []
    for directory in directories:
        part = load_part(directory)
        if part.name not in stage.starts:
            raise UserError(f"{directory} is a {part.name}; {stage.name} starts from {' or '.join(stage.starts)}")
        where = stage.starts[part.name]
        params, used = _replaced(state.params, part, where, stage, directory)
        state = state.replace(params=params)
        if state.ema is not None:
            base = stage.averaged_part
            ema, _ = _replaced({base: state.ema} if base else state.ema, part, where, stage, directory)
            state = state.replace(ema=ema[base] if base else ema)
        record.append({"part": part.name, "id": part.id, "parameters": used})
    return state, record


def _replaced(
    tree: Mapping[str, Any], part: Part, where: str, stage: Stage, directory: str
) -> tuple[dict[str, Any], int]:
    """The tree with the part's parameters below `where`, and how many scalars these are."""
    flat = flatten(tree)
    new = {f"{where}/{name}".lstrip("/"): value for name, value in _learned(part, stage)}
    unknown = sorted(set(new) - set(flat))
    if unknown:
        raise UserError(f"{directory}: {stage.name} has no parameters {listed(unknown)}; is its configuration another?")
    fitted = {name: _fit(value, flat[name].shape, name in stage.positions) for name, value in new.items()}
    wrong = [
        f"{name} {list(new[name].shape)} instead of {list(flat[name].shape)}" for name in new if fitted[name] is None
    ]
    if wrong:
        raise UserError(f"{directory} does not fit {stage.name}'s configuration: {listed(wrong)}")
    for name, value in fitted.items():
        flat[name] = place(np.asarray(value, flat[name].dtype), flat[name].sharding)
    return unflatten(flat), sum(value.size for value in fitted.values() if value is not None)


def _learned(part: Part, stage: Stage) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in flatten(part.params).items():
        if name.partition("/")[0] not in (UNUSED, *stage.measured):
            yield name, value


def _fit(value: np.ndarray, shape: tuple[int, ...], cut: bool) -> np.ndarray | None:
    """The value, or its first rows, in `shape`; None where that cannot be."""
    if value.shape == shape:
        return value
    if not cut or value.ndim != len(shape) or any(have < want for have, want in zip(value.shape, shape, strict=True)):
        return None
    return value[tuple(slice(size) for size in shape)]


def listed(names: Sequence[str]) -> str:
    """Names for a message; of many only the first."""
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
