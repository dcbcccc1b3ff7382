"""Optimisers: AdamW with warm-up and decay, clipping, gradient accumulation, and the moving average of weights."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from melody_jax.errors import UserError
from melody_jax.train.state import TrainState

PyTree = Any


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its schedule. Steps are steps of the loop, even if gradients are accumulated over several.

    Attributes:
      optimizer: "adamw", or "muon" (Jordan, 2024): the momentum of every weight matrix is orthogonalised before it is
        applied, scaled to the size of AdamW's updates (Liu et al., "Muon is scalable for LLM training", 2025); NAdam
        for everything else (embeddings, biases, norms). It needs fewer steps, but every step costs more with wide
        matrices. learning_rate: peak, after warm-up. warmup_steps: linear warm-up from 0. total_steps: where the decay
        ends; the loop's total. schedule: decay after warm-up to `final_fraction` of the peak ("cosine", "linear"), or
        none ("constant"). final_fraction: learning rate at the end, as a fraction of the peak. b1, b2, eps: Adam's
        moments. weight_decay: decoupled, on weight matrices only (never biases or norm scales). clip_norm: limit of the
        global gradient norm; 0 for none. ema_decay: limit of the decay of the weights' moving average; 0 for no
        average. accumulate: micro-batches (steps) per update of the parameters.
    """

    optimizer: str = "adamw"
    learning_rate: float = 2e-4
    warmup_steps: int = 1000
    total_steps: int = 200_000
    schedule: str = "cosine"
    final_fraction: float = 0.0
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "muon"):
            raise UserError(f"optimizer must be adamw or muon, got {self.optimizer!r}")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise UserError(f"schedule {self.schedule!r} is none of cosine, linear, constant")
        if self.accumulate < 1 or self.total_steps < 1 or self.warmup_steps < 0:
            raise UserError("accumulate and total_steps must be at least 1, warmup_steps at least 0")


def make_schedule(config: OptimConfig) -> Callable[[Any], jax.Array]:
    """Learning rate (float32 scalar) at a step of the loop (integer scalar)."""

    def learning_rate(count: Any) -> jax.Array:
        step = jnp.asarray(count).astype(jnp.float32)
        # Step 0 already has a small learning rate, not 0.
        warmup = jnp.minimum(1.0, (step + 1.0) / max(config.warmup_steps, 1))
        decay_steps = max(config.total_steps - config.warmup_steps, 1)
        progress = jnp.clip((step - config.warmup_steps) / decay_steps, 0.0, 1.0)
        remaining = {
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "linear": 1.0 - progress,
            "constant": jnp.ones_like(progress),
        }[config.schedule]
        return config.learning_rate * warmup * (config.final_fraction + (1.0 - config.final_fraction) * remaining)

    return learning_rate


def make_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """Clipping, AdamW or Muon on the schedule, accumulation. Works on boxed and unboxed parameters."""
    schedule = make_schedule(config)
    steps = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []

    def learning_rate(updates: Any) -> jax.Array:
        """optax counts updates, the configuration counts steps of the loop."""
        return schedule(updates * config.accumulate)

    steps.append((_muon if config.optimizer == "muon" else _adamw)(config, learning_rate))
    optimizer = optax.chain(*steps)
    if config.accumulate > 1:
        optimizer = optax.MultiSteps(optimizer, config.accumulate).gradient_transformation()
    return _with_implicit_promotion(optimizer)


def _adamw(config: OptimConfig, learning_rate: Callable[[Any], jax.Array]) -> optax.GradientTransformation:
    return optax.adamw(
        learning_rate,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=_is_weight_matrix,
    )


def _muon(config: OptimConfig, learning_rate: Callable[[Any], jax.Array]) -> optax.GradientTransformation:
    return optax.contrib.muon(
        learning_rate,
        weight_decay=config.weight_decay,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=_muon_axes,
        consistent_rms=0.2,
    )


def update_ema(ema: PyTree, params: PyTree, decay: float, step: jax.Array) -> PyTree:
    """Moving average after `step` (the count before the update), in float32.

    The decay is warmed up as min(decay, (1 + step) / (10 + step)), so that the first steps' weights are forgotten
    in short runs too (as in TensorFlow's ExponentialMovingAverage). `ema` may cover a sub-tree given as `params`.
    """
    step = jnp.asarray(step).astype(jnp.float32)
    reached = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: e + (1.0 - reached) * (p.astype(e.dtype) - e), ema, params)


def apply_gradients(
    config: OptimConfig, state: TrainState, gradients: PyTree
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The next state of a stage with one optimizer (`make_optimizer(config)`): parameters, EMA, step.

    Returns it with the metrics `gradient_norm` (before clipping) and `learning_rate`.
    """
    updates, opt_state = make_optimizer(config).update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = None if state.ema is None else update_ema(state.ema, params, config.ema_decay, state.step)
    metrics = {
        "gradient_norm": optax.tree.norm(gradients),
        "learning_rate": make_schedule(config)(state.step),
    }
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema), metrics


def _is_weight_matrix(params: PyTree) -> PyTree:
    """True where weight decay applies. By name: under `nn.scan` even a bias has two dimensions."""

    def decays(path: tuple, leaf: Any) -> bool:
        names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        return leaf.ndim >= 2 and names[-1] not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decays, params)


def _muon_axes(params: PyTree) -> PyTree:
    """Input and output axis of every kernel, `nn.scan`'s stacked ones included; None for other parameters."""

    def axes(path: tuple, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        matrix = leaf.ndim >= 2 and names[-1] == "kernel"
        return optax.contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1) if matrix else None

    return jax.tree_util.tree_map_with_path(axes, params)


def _with_implicit_promotion(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """optax mixes Python floats with int32 counts, which strict dtype promotion (our tests) refuses."""

    def init(params: PyTree) -> PyTree:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.init(params)

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params)

    return optax.GradientTransformation(init, update)
