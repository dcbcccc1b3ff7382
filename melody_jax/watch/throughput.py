"""What the steps of a run achieve: audio and tokens a second, MFU, memory."""

import logging
from collections.abc import Sequence
from typing import Any

import jax

from melody_jax.watch import chips, flops
from melody_jax.watch.goodput import Interval

_LOG = logging.getLogger(__name__)


class Throughput:
    """Turns the time of steps into rates.

    Args:
      stage, state: the `train.stage.Stage` whose step it is, and its state, which is read abstractly.
      devices: all devices of the mesh.
    """

    def __init__(self, stage: Any, state: Any, devices: Sequence[Any]):
        self._per_step = {"audio_seconds_per_second": stage.batch_size * stage.row_seconds}
        if stage.row_tokens:
            self._per_step["tokens_per_second"] = stage.batch_size * stage.row_tokens
        chip = chips.of_device(devices[0].device_kind) if jax.process_index() == 0 else None
        self._peak = len(devices) * chip.flops if chip else 0.0
        self._stage = stage
        self._state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        self._products: dict[Any, int] = {}  # phase -> FLOPs of a step

    def rates(self, interval: Interval, step: int) -> dict[str, float]:
        """Figures of an interval between two records, the last one after `step`, in seconds, bytes and shares of 1.

        `seconds_per_step`, `steps_per_second`, `audio_seconds_per_second`, `tokens_per_second` (of stages that read
        tokens), `mfu` (on TPUs of `chips`), `input_wait` (share of the steps' time); none of these in an interval without
        steps. `memory_bytes`: the most that a device of this host has held since the process began, where it tells.
        `goodput`: of the run.
        """
        rates = {"goodput": interval.goodput} | _peak_memory()
        if interval.steps:
            seconds = interval.seconds / interval.steps
            rates |= {"seconds_per_step": seconds, "steps_per_second": 1 / seconds}
            rates |= {name: amount / seconds for name, amount in self._per_step.items()}
            rates["input_wait"] = interval.input / interval.seconds
            done = [self._flops(self._stage.phase(before)) for before in range(step - interval.steps, step)]
            if self._peak and all(done):
                rates["mfu"] = sum(done) / interval.seconds / self._peak
        return rates

    def _flops(self, phase: Any) -> int:
        """Of a step of this phase; 0 where nobody asks."""
        if phase not in self._products:
            self._products[phase] = _model_flops(phase, self._state) if self._peak else 0
        return self._products[phase]


def _model_flops(stage: Any, abstract: Any) -> int:
    """FLOPs of one step of all devices together; 0 (with a warning) where they cannot be counted."""
    try:
        return flops.count(flops.without_remat(stage).train_step, abstract, stage.batch_shapes())
    except Exception as error:  # a figure is not worth a run, whatever a stage's trace may raise
        _LOG.warning("%s: no MFU, the step's FLOPs cannot be counted (%s)", stage.name, error)
        return 0


def _peak_memory() -> dict[str, float]:
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
    return {"memory_bytes": float(max(peaks))} if peaks else {}
