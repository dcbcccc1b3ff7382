"""The one training loop. It sees a `Stage` and nothing of the model inside."""

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from melody_jax import config as config_lib
from melody_jax.bundle.part import Part, save_part
from melody_jax.errors import UserError
from melody_jax.parallel.init import to_host
from melody_jax.parallel.mesh import DEFAULT, make_mesh
from melody_jax.train.checkpoint import Checkpoints
from melody_jax.train.goodput import Goodput
from melody_jax.train.hooks import StoppedError, StopSignals, exit_code_of, sole_user, together
from melody_jax.train.initial import start_from
from melody_jax.train.metrics import MetricWriter, plot_curves, progress_bar, show
from melody_jax.train.profile import Profile, traced_steps
from melody_jax.train.stage import Batches, HostBatch, Stage
from melody_jax.train.state import TrainState
from melody_jax.train.steps import Steps, calibrated, initial_state
from melody_jax.train.throughput import Throughput

PART = "part"
_ROLLBACKS = 3  # to the same checkpoint
_LOG = logging.getLogger(__name__)


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
    init_from: Sequence[str] = (),
    precompiled_dir: str = "",
    profile: str = "",
    began: float | None = None,
) -> Part | None:
    """Trains a stage to its last step, from its newest checkpoint if there is one, and writes its part.

    Everything goes into `model_dir/<stage>`: checkpoints/, metrics.jsonl, goodput.jsonl, tensorboard/, curves.png, and
    part/ at the end, which marks the stage as finished. Interrupted and restarted, it ends with the same bits.

    Args:
      batches: training batches (this host's rows); their position is part of a checkpoint.
      eval_batches: held-out batches; the first `eval_steps` are kept in memory and used at every evaluation.
      total_steps: where training ends; a checkpoint and an evaluation are made there in any case.
      checkpoint_every, eval_every, log_every: in steps.
      keep: how many checkpoints are kept.
      mesh: sizes of the mesh axes (`parallel.mesh`).
      seed: of parameters and step randomness.
      data: name of the data, for the part's record.
      init_from: directories of parts to start from instead of random weights (`Stage.starts`); a run that goes on from
        a checkpoint does not read them again.
      precompiled_dir: folder of executables (`melody precompile --save`); the step is compiled where it is not there.
      profile: "FIRST:LAST", steps of which every host writes a trace into `model_dir/<stage>/profile`; "" for none.
      began: Unix time from which the run's start-up counts; None for now.

    Returns:
      The part (None on all hosts but the first).

    Raises:
      UserError: the mesh does not fit, `profile` is no range, the folder belongs to another configuration, parent or
        process, or a part of `init_from` does not fit the stage.
      StoppedError: a signal (after a checkpoint), a metric that is not finite, or a checkpoint that cannot be
        written; checkpoints made before are intact.
    """
    directory, traced = Path(model_dir) / stage.name, traced_steps(profile)
    began = time.time() if began is None else began
    with sole_user(directory), StopSignals() as signals:
        grid = make_mesh(mesh)
        record = {"seconds": 0.0, "evaluation": {}, "part": _part_record(stage)}
        checkpoints = Checkpoints(directory / "checkpoints", keep)
        state = initial_state(stage, seed, grid)
        restored = checkpoints.restore(state, batches)
        if restored is not None:
            _check_same_run(restored.record["part"], record["part"], directory)
            state, record = restored.state, restored.record | {"part": record["part"]}
        else:
            state, record["init_from"] = start_from(stage, state, init_from)
            state = calibrated(stage, state, _endless(batches))
        with together():
            writer = MetricWriter(directory, int(state.step))
            goodput = Goodput(directory, int(state.step), total_steps, began)
        throughput = Throughput(stage, state, grid.devices.ravel().tolist())
        steps = Steps(stage, grid, state, precompiled_dir)
        left = range(int(state.step) + 1, total_steps + 1)
        tracer = Profile(traced, left, directory, steps.wait, goodput)
        del state, restored  # the first step takes over their memory
        held_out = _first(eval_batches, eval_steps)
        run = _Run(
            steps,
            batches,
            held_out,
            checkpoints,
            writer,
            signals,
            record,
            goodput,
            throughput,
            tracer,
            stage.rollback_after,
        )
        try:
            run.advance(stage.name, total_steps, checkpoint_every, eval_every, log_every)
            training = {"steps": total_steps, "data": data, "seed": seed, "batch_size": stage.batch_size}
            training |= {"seconds": round(record["seconds"], 1), "device": jax.devices()[0].device_kind}
            training["evaluation"] = record["evaluation"]
            training |= {name: record[name] for name in ("init_from", "rollbacks") if record.get(name)}
            with goodput.spent("finish"), together():
                part = _write_part(stage, steps.state, batches, directory, training)
        except (StoppedError, OSError) as error:
            message = f"{stage.name}: {error}; {checkpoints.last_good(alone=isinstance(error, OSError))}"
            raise StoppedError(message, exit_code_of(error)) from error
        finally:
            tracer.close()
            goodput.close()
            writer.close()
            checkpoints.close()
            with suppress(OSError):  # a full disk has been reported
                plot_curves(directory, stage.name)
        stop = signals.agreed(at_meeting=True)
        if stop:
            raise StoppedError(f"{stage.name}: finished, then stopped by a signal", 128 + stop)
        return part


@dataclasses.dataclass
class _Run:
    """What the steps of one run read and write; `record` goes into every checkpoint."""

    steps: Steps
    batches: Batches
    held_out: list[HostBatch]
    checkpoints: Checkpoints
    writer: MetricWriter
    signals: StopSignals
    record: dict[str, Any]
    goodput: Goodput
    throughput: Throughput
    tracer: Profile
    rollback_after: int = 0

    def advance(self, name: str, total: int, checkpoint_every: int, eval_every: int, log_every: int) -> None:
        """Takes the steps that are left."""
        first = int(self.steps.state.step)
        started = time.monotonic() - self.record["seconds"]
        step = first
        with progress_bar(name, first, total) as bar:
            while step < total:
                step += 1
                with self.tracer.step(step):
                    with self.goodput.spent("input"):
                        batch = next(self.batches)
                    with self.goodput.step(step):
                        self.steps.dispatch(batch)
                        if step == first + 1:
                            self.steps.wait()  # it has been compiled
                bar.update()
                last, at_log = step == total, step % log_every == 0
                if at_log or last:
                    means = self.steps.take_means()
                    with together():  # one host writes, all must know that it could
                        means |= self.throughput.rates(self.goodput.take())
                        show(bar, means)
                        self.writer.write(step, "train", means)
                    self.checkpoints.check()
                if self.held_out and (step % eval_every == 0 or last):
                    with self.goodput.spent("evaluation"):
                        self.record["evaluation"] = self.steps.evaluate(self.held_out)
                    with together():
                        self.writer.write(step, "eval", self.record["evaluation"])
                stop = self.signals.agreed(at_meeting=at_log)
                if step % checkpoint_every == 0 or last or stop:
                    self.steps.read()  # what is saved is known to be finite
                    self.record |= {"seconds": time.monotonic() - started, "healthy": not self.steps.skipped}
                    with self.goodput.spent("checkpointing"):
                        self.checkpoints.save(self.steps.state, self.batches, self.record)
                if stop and not last:
                    raise StoppedError(f"stopped by a signal at step {step}", 128 + stop)
                if self.rollback_after and self.steps.skipped >= self.rollback_after:
                    with self.goodput.spent("checkpointing"):
                        step = self._roll_back(step)
                    bar.update(step - bar.n)
        self.tracer.close()
        with self.goodput.spent("checkpointing"):
            self.checkpoints.wait()

    def _roll_back(self, step: int) -> int:
        """The state of the last good checkpoint, in front of other batches than those that followed it; its step.

        Raises:
          StoppedError: there is no such checkpoint, or it has been tried `_ROLLBACKS` times.
        """
        skipped = self.steps.skipped
        restored = self.checkpoints.go_back(self.steps.state)
        if restored is None:
            raise StoppedError(f"step {step}: {skipped} steps in a row were skipped, before the first good checkpoint")
        good = int(restored.state.step)
        self.record["rollbacks"] = [*self.record.get("rollbacks", []), [step, good]]
        if [back for _, back in self.record["rollbacks"]].count(good) > _ROLLBACKS:
            raise StoppedError(
                f"step {step}: {skipped} steps in a row were skipped, as after {_ROLLBACKS} rollbacks before"
            )
        self.steps.go_back(restored.state)
        _LOG.warning("step %d: %d steps in a row were skipped; back to the checkpoint of step %d", step, skipped, good)
        self.writer.go_back(good)
        self.goodput.go_back(good)
        self.writer.write(good, "rollback", {"from_step": float(step)})
        return good


def _first(batches: Iterator[HostBatch] | Batches, count: int) -> list[HostBatch]:
    """The first `count` batches, or all where there are fewer."""
    taken = (next(batches, None) for _ in range(count))
    return [batch for batch in taken if batch is not None]


def _endless(batches: Batches) -> Iterator[HostBatch]:
    return iter(lambda: next(batches), None)


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


def _write_part(
    stage: Stage, state: TrainState, batches: Batches, directory: Path, training: dict[str, Any]
) -> Part | None:
    params = to_host(stage.finish(state, _endless(batches)))
    if jax.process_index() != 0:
        return None
    config, geometry, parents = stage.part()
    return save_part(directory / PART, stage.name, params, config, geometry, parents, training)
