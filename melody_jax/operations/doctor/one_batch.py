"""Some steps of a training on one fixed batch: does the loss fall, and which parameters does the gradient reach?"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import DictKey, GetAttrKey

from melody_jax.operations.doctor.finding import FAILURE, Finding, judge, ok
from melody_jax.parallel.batch import place_batch
from melody_jax.parallel.init import place, to_host
from melody_jax.stages.autoencoder import AutoencoderStage
from melody_jax.stages.codes import CodesStage
from melody_jax.train.stage import HostBatch, Metrics, Stage
from melody_jax.train.state import TrainState
from melody_jax.train.steps import train_program

FAR = 1e4  # times the median of the layers' gradient norms, or one over it
PAIRED = 4  # updates whose random draws are repeated at the end
FALL = 0.01  # of the loss, the least that counts

Names = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Taken:
    """What the steps showed.

    Attributes:
      findings: of the first step, the gradients and the batch by heart.
      state: after the steps; of no use where a finding is a failure.
      step_seconds: what one step takes once it is compiled.
    """

    findings: list[Finding]
    state: TrainState
    step_seconds: float


def shortened(stage: Stage, steps: int) -> Stage:
    """The stage with what comes late in a training brought into the first `steps`: the learning rate's warm-up, the
    discriminators' game, the seeding of codebooks. No weight decay: what moves has been moved by the batch."""
    changes: dict[str, Any] = {
        name: dataclasses.replace(
            optim, warmup_steps=min(optim.warmup_steps, steps * optim.accumulate // 10), weight_decay=0.0
        )
        for name, optim in stage.optimisers.items()
    }
    if isinstance(stage, AutoencoderStage):
        changes["adversarial_start"] = min(stage.adversarial_start, 0)
    if isinstance(stage, CodesStage):
        seed_step = min(stage.config.seed_step, steps // 3)
        changes["config"] = dataclasses.replace(stage.config, seed_step=seed_step)
    return dataclasses.replace(stage, **changes)  # pyright: ignore[reportArgumentType]


def take_steps(stage: Stage, state: TrainState, mesh: Mesh, batch: HostBatch, steps: int) -> Taken:
    """Takes `steps` updates of a `shortened` stage on `batch`; `state` is used up.

    The steps draw their randomness (dropout, noise, crops) as in a training. To compare losses all the same, the draws
    of the first updates are repeated at the end; a stage without a loss (codes) is judged by its errors.
    """
    layout = jax.tree.map(lambda leaf: leaf.sharding, state)
    train_step = train_program(stage, mesh, layout)
    placed = place_batch(batch, mesh)
    update = max(optim.accumulate for optim in stage.optimisers.values())  # steps to the first one of the parameters

    def take(state: TrainState, count: int) -> tuple[TrainState, list[Metrics]]:
        taken = []
        for _ in range(count):
            state, metrics = train_step(state, placed)
            jax.block_until_ready(taken[-1:])  # one step ahead, as in training: on CPUs collectives of many hang
            taken.append(metrics)
        return state, taken

    started = time.monotonic()
    state, history = take(state, update)
    first = _floats(history)
    compiled = time.monotonic() - started
    findings = [_check_first(first, compiled), *_check_gradients(state, first[-1].get("gradient_norm", 1.0))]
    if any(finding.level == FAILURE for finding in findings):
        return Taken(findings, state, math.nan)

    started = time.monotonic()
    state, history = take(state, max(1, steps - 1) * update)
    jax.block_until_ready(state)
    seconds = (time.monotonic() - started) / len(history)
    metrics = first + _floats(history)
    idle = _without_gradient(state)
    pairs = min(PAIRED, steps) * update
    if "loss" in metrics[0]:
        beginning = place(np.zeros((), np.int32), state.step.sharding)
        state, again = take(state.replace(step=beginning), pairs)
        findings.append(_check_reached(state, idle, stage.unread))
        findings.append(_check_fall(steps, metrics[:pairs], _floats(again), ["loss"], "noise, dropout and crops"))
    else:
        errors = sorted(name for name in metrics[-1] if name.endswith("_error"))
        findings.append(_check_fall(steps, metrics[:1], metrics[-1:], errors, "no gradient"))
    return Taken(findings, state, seconds)


def gradients(state: TrainState) -> dict[Names, jax.Array]:
    """Name of each parameter -> its gradient, but for a factor: the optimiser's first moment after the first update.

    Parameters that no optimiser holds a moment of are absent; all are where a stage has no gradients.
    """
    params, moments = _params(state), {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state):
        if GetAttrKey("mu") in path:
            names = _names(path)  # may begin with names of the optimiser's own, as "muon"
            found = next((names[start:] for start in range(len(names)) if names[start:] in params), None)
            if found is not None:
                moments[found] = leaf
    return moments


def _check_first(metrics: Sequence[Mapping[str, float]], seconds: float) -> Finding:
    broken = sorted({name for values in metrics for name, value in values.items() if not math.isfinite(value)})
    skipped = metrics[-1].get("skipped_in_a_row", 0) > 0
    shown = {name: value for name, value in metrics[0].items() if "loss" in name or "error" in name}
    measured = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
    if broken or skipped:
        measured = f"not finite: {', '.join(broken)}" if broken else f"skipped; {measured}"
    advice = "look at the values of the batch, the learning rate, and --set of a float32 dtype"
    return judge("first step", f"{measured}; {seconds:.1f} s with compilation", advice, failure=bool(broken or skipped))


def _check_gradients(state: TrainState, whole: float) -> list[Finding]:
    """Gradient norm of each layer: the first two names of its parameters.

    Args:
      whole: norm of all of it, before clipping; the layers' norms are scaled to it.
    """
    found = gradients(state)
    if not found:
        return [ok("gradients", "none: the stage learns without them")]
    squares: dict[str, float] = {}
    for names, leaf in found.items():
        layer = "/".join(names[:2])
        squares[layer] = squares.get(layer, 0.0) + float(jnp.sum(jnp.square(leaf.astype(jnp.float32))))
    total = math.sqrt(sum(squares.values()))
    scale = whole / total if total > 0 and math.isfinite(total) else 1.0
    norms = {layer: scale * math.sqrt(square) for layer, square in squares.items()}
    broken = [layer for layer, norm in norms.items() if not math.isfinite(norm)]
    positive = [norm for norm in norms.values() if norm > 0]
    median = float(np.median(positive)) if positive else 0.0
    far = [layer for layer, norm in norms.items() if norm > 0 and not 1 / FAR <= norm / median <= FAR]
    listed = ", ".join(f"{layer} {norm:.2g}" for layer, norm in norms.items())
    findings = [
        judge("gradients", f"norm {whole:.3g}; {listed}", f"not finite in {', '.join(broken)}: look for a division or "
              "a logarithm there", failure=bool(broken))
    ]  # fmt: skip
    if not broken:
        measured = f"{len(far)} of {len(norms)} layers are more than {FAR:g} times from the median norm {median:.2g}"
        advice = f"look at scales and initialisation in {', '.join(far)}"
        findings.append(judge("gradients of layers", measured, advice, warning=bool(far)))
    return findings


def _without_gradient(state: TrainState) -> dict[Names, np.ndarray]:
    """Name -> value of each parameter that has had no gradient so far."""
    found, params = gradients(state), _params(state)
    idle = {name: leaf for name, leaf in params.items() if name not in found or not bool(jnp.any(found[name] != 0))}
    return {name: to_host(leaf) for name, leaf in idle.items()}


def _check_reached(state: TrainState, idle: Mapping[Names, np.ndarray], unread: Mapping[str, str]) -> Finding:
    """Whether every parameter has had a gradient in some step, or is moved by the steps without one (running means).

    Args:
      idle: those that had none, as they were at first.
      unread: `Stage.unread`: a warning.
    """
    params = _params(state)
    still = [name for name, value in idle.items() if np.array_equal(to_host(params[name]), value)]
    missed = ["/".join(name) for name in still if name[0] not in unread]
    if still and not missed:
        told = "; ".join(f"{name} had none: {unread[name]}" for name in dict.fromkeys(name[0] for name in still))
        return judge("gradients reach", f"{len(still)} of {len(params)} parameters got none", told, warning=True)
    listed = ", ".join(missed[:5]) + (f" and {len(missed) - 5} more" if len(missed) > 5 else "")
    advice = f"{listed}: the loss does not depend on them, or a stop_gradient or a mask is in the way"
    measured = f"{len(missed)} of {len(params)} parameters got none in any step"
    return judge("gradients reach", measured, advice, failure=bool(missed))


def _params(state: TrainState) -> dict[Names, jax.Array]:
    return {_names(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}


def _check_fall(
    steps: int,
    before: Sequence[Mapping[str, float]],
    after: Sequence[Mapping[str, float]],
    names: Sequence[str],
    draws: str,
) -> Finding:
    """Whether the means of the metrics `names` have fallen."""
    figures = {
        name: tuple(float(np.mean([values[name] for values in metrics])) for metrics in (before, after))
        for name in names
    }
    still = [name for name, (old, new) in figures.items() if not new < old - FALL * abs(old)]
    measured = ", ".join(f"{name} {old:.4g} to {new:.4g}" for name, (old, new) in figures.items())
    advice = (
        f"{', '.join(still)} should fall: try another learning rate, more --updates, or look at the loss and its inputs"
    )
    return judge("one batch by heart", f"{measured} in {steps} steps on one batch (same {draws})", advice,
                 warning=bool(still))  # fmt: skip


def _floats(history: Sequence[Metrics]) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in metrics.items()} for metrics in jax.device_get(history)]


def _names(path: Sequence[Any]) -> Names:
    return tuple(entry.key for entry in path if isinstance(entry, DictKey))
