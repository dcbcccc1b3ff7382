"""Do the Pallas kernels give what the plain code beside them gives, on the very chips that a training will run on?"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from melody_jax.operations.doctor.finding import Finding, judge
from melody_jax.parallel import activations, rules
from melody_jax.parallel.batch import place_batch
from melody_jax.train.stage import HostBatch, Stage
from melody_jax.train.state import TrainState

FIGURES = ("loss", "gradient_norm")
APART = 0.01  # relative difference that bfloat16 explains; ten times as much is a fault


def check_kernels(stage: Stage, state: TrainState, mesh: Mesh, batch: HostBatch) -> list[Finding]:
    """The figures of one step with kernels and without, from the same state and draws; nothing where none runs."""
    with activations.placed(mesh, tuple(rules.RULES.items())):
        if not activations.kernels_run():
            return []
    placed = place_batch(batch, mesh)

    def figures(state: TrainState, batch: Any) -> dict[str, jax.Array]:
        metrics = stage.train_step(state, batch)[1]
        return {name: metrics[name] for name in FIGURES if name in metrics}

    def plain(state: TrainState, batch: Any) -> dict[str, jax.Array]:
        with activations.off_tpu():
            return figures(state, batch)

    fused = jax.jit(rules.on_mesh(figures, mesh)).trace(state, placed)
    if "pallas_call" not in str(fused.jaxpr):
        return []  # a stage without them, which would be compiled twice
    found = jax.device_get(fused.lower().compile()(state, placed))
    return [compare(found, jax.device_get(jax.jit(rules.on_mesh(plain, mesh))(state, placed)))] if found else []


def compare(fused: Mapping[str, Any], plain: Mapping[str, Any]) -> Finding:
    """Whether the figures agree."""
    apart = max(abs(float(fused[name]) - float(plain[name])) / max(abs(float(plain[name])), 1e-12) for name in plain)
    measured = ", ".join(f"{name} {float(fused[name]):.6g} with, {float(plain[name]):.6g} without" for name in plain)
    advice = (
        "train with fused_attention = False (and recurrence = 'associative' in the DPD, fused_norm = False in the wave "
        "stem), and report the chip and libtpu"
    )
    broken = not apart <= 10 * APART  # NaN counts as different
    return judge("kernels", measured, advice, failure=broken, warning=not apart <= APART)
