"""The one training loop. It sees a `Stage` and nothing of the model inside."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from melody_jax import config as config_lib
from melody_jax.bundle.part import Part, save_part
from melody_jax.errors import UserError
from melody_jax.parallel.mesh import DEFAULT, make_mesh
from melody_jax.train.checkpoint import Checkpoints
from melody_jax.train.hooks import StopSignals, TrainingStopped, sole_user
from melody_jax.train.metrics import MetricWriter, plot_curves, progress_bar, show
from melody_jax.train.stage import Batches, HostBatch, Stage
from melody_jax.train.steps import Steps, initial_state

PART = "part"


def train(
    stage: Stage,
    batches: Batches,
    eval_batches: Iterator[HostBatch] | Batches,
    model_dir: str,
    total_steps: int,
    checkpoint_every: int = 1000,
    eval_every: int = 1000,
    log_every: int = 50,
    eval_steps: int = 8,
    keep: int = 3,
    mesh: str = DEFAULT,
    seed: int = 0,
    data: str = "",
) -> Part | None:
    """Trains a stage to its last step, from its newest checkpoint if there is one, and writes its part.

    Everything goes into `model_dir/<stage>`: checkpoints/, metrics.jsonl, tensorboard/, curves.png, and part/ at the
    end, which marks the stage as finished. Interrupted and restarted, it ends with the same bits.

    Args:
      batches: training batches (this host's rows); their position is part of a checkpoint.
      eval_batches: held-out batches; the first `eval_steps` are kept in memory and used at every evaluation.
      total_steps: where training ends; a checkpoint and an evaluation are made there in any case.
      checkpoint_every, eval_every, log_every: in steps.
      keep: how many checkpoints are kept.
      mesh: sizes of the mesh axes (`parallel.mesh`).
      seed: of parameters and step randomness.
      data: name of the data, for the part's record.

    Returns:
      The part (None on all hosts but the first).

    Raises:
      UserError: the mesh does not fit, or the folder belongs to another configuration, parent or process.
      TrainingStopped: a signal (after a checkpoint), a metric that is not finite, or a checkpoint that cannot be
        written; checkpoints made before are intact.
    """
    directory = Path(model_dir) / stage.name
    with sole_user(directory), StopSignals() as signals:
        grid = make_mesh(mesh)
        record = {"seconds": 0.0, "part": _part_record(stage)}
        checkpoints = Checkpoints(directory / "checkpoints", keep)
        state = initial_state(stage, seed, grid)
        restored = checkpoints.restore(state, batches)
        if restored is not None:
            _check_same_run(restored.record["part"], record["part"], directory)
            state, record = restored.state, restored.record | {"part": record["part"]}
        first = int(state.step)
        started = time.monotonic() - record["seconds"]
        held_out = _first(eval_batches, eval_steps)
        evaluation: dict[str, float] = {}
        steps, writer = Steps(stage, grid, state), MetricWriter(directory, first)
        del state, restored  # their buffers are given to the first step
        try:
            with progress_bar(stage.name, first, total_steps) as bar:
                for step in range(first + 1, total_steps + 1):
                    steps.dispatch(next(batches))
                    bar.update()
                    last = step == total_steps
                    if step % log_every == 0 or last:
                        means = steps.take_means()
                        show(bar, means)
                        writer.write(step, "train", means)
                        checkpoints.check()
                    if held_out and (step % eval_every == 0 or last):
                        evaluation = steps.evaluate(held_out)
                        writer.write(step, "eval", evaluation)
                    stop = signals.agreed(at_meeting=step % log_every == 0)
                    if step % checkpoint_every == 0 or last or stop:
                        steps.read()  # what is saved is known to be finite
                        record["seconds"] = time.monotonic() - started
                        checkpoints.save(steps.state, batches, record)
                    if stop and not last:
                        checkpoints.wait()
                        raise TrainingStopped(f"stopped by a signal, saved at step {step}", 128 + stop)
            checkpoints.wait()
            training = {"steps": total_steps, "seconds": round(record["seconds"], 1), "data": data, "seed": seed}
            training |= {"batch_size": stage.batch_size, "device": jax.devices()[0].device_kind, "evaluation": evaluation}
            part = _write_part(stage, steps, batches, directory, training)
        except (TrainingStopped, OSError) as error:
            raise TrainingStopped(f"{stage.name}: {error}", getattr(error, "exit_code", 1)) from error
        finally:
            writer.close()
            checkpoints.close()
            plot_curves(directory, stage.name)
        stop = signals.agreed(at_meeting=True)
        if stop:
            raise TrainingStopped(f"{stage.name}: finished; stopped by a signal", 128 + stop)
        return part


def _first(batches: Iterator[HostBatch] | Batches, count: int) -> list[HostBatch]:
    """The first `count` batches, or all where there are fewer."""
    taken = (next(batches, None) for _ in range(count))
    return [batch for batch in taken if batch is not None]


def _part_record(stage: Stage) -> dict[str, Any]:
    config, geometry, parents = stage.part()
    return {"config": config_lib.to_dict(config), "geometry": config_lib.to_dict(geometry), "parents": dict(parents)}


def _check_same_run(saved: dict[str, Any], now: dict[str, Any], directory: Path) -> None:
    """Checkpoints belong to a geometry and to parents; loss weights, dtypes and learning rates may change."""
    for key in ("geometry", "parents"):
        different = [name for name in sorted(saved[key] | now[key]) if saved[key].get(name) != now[key].get(name)]
        if different:
            raise UserError(
                f"{directory} was begun with another {different[0]} ({key}: {saved[key].get(different[0])}, now "
                f"{now[key].get(different[0])}); remove it to train the stage anew"
            )


def _write_part(stage: Stage, steps: Steps, batches: Batches, directory: Path, training: dict[str, Any]) -> Part | None:
    params = stage.finish(steps.state, batches)
    if jax.process_count() > 1:
        params = multihost_utils.process_allgather(params, tiled=True)
    if jax.process_index() != 0:
        return None
    config, geometry, parents = stage.part()
    return save_part(directory / PART, stage.name, jax.device_get(params), config, geometry, parents, training)
