"""The one training loop. It sees a `Stage`, its `Data` and a `Run`, and nothing of the model inside."""

import dataclasses
import logging
import time
from itertools import islice
from typing import Any

import jax

from melody_jax.bundle.part import Part
from melody_jax.errors import StoppedError, exit_code_of
from melody_jax.parallel.hosts import together
from melody_jax.parallel.mesh import make_mesh
from melody_jax.train.checkpoint import Checkpoints
from melody_jax.train.end import StopSignals, sole_user, write_part
from melody_jax.train.local import LocalCheckpoints
from melody_jax.train.run import Run
from melody_jax.train.stage import Batches, Data, HostBatch, Stage, endless
from melody_jax.train.start import begin
from melody_jax.train.steps import Steps
from melody_jax.watch.journal import Journal
from melody_jax.watch.throughput import Throughput

_ROLLBACKS = 3  # to the same checkpoint
_LOG = logging.getLogger(__name__)


def train(stage: Stage, data: Data, run: Run) -> Part | None:
    """Trains a stage to its last step, from its newest checkpoint if there is one, and writes its part.

    Everything goes into `run.folder(stage.name)`: checkpoints/, metrics.jsonl, goodput.jsonl, tensorboard/, curves.png, and
    part/ at the end, which marks the stage as finished. Interrupted and restarted, it ends with the same bits.

    Returns:
      The part (None on all hosts but the first).

    Raises:
      UserError: the mesh does not fit, the folder belongs to another configuration, parent, data set or process, or a part
        of `run.init_from` does not fit the stage.
      StoppedError: a signal (after a checkpoint), a metric that is not finite, or a checkpoint that cannot be
        written; checkpoints made before are intact.
    """
    directory = run.folder(stage.name)
    with sole_user(directory), StopSignals() as signals:
        mesh = make_mesh(run.mesh)
        checkpoints = Checkpoints(directory / "checkpoints", run.keep)
        local = LocalCheckpoints(run.local_checkpoints, directory) if run.local_checkpoints else None
        state, record = begin(stage, data.training, run, mesh, checkpoints, local)
        throughput = Throughput(stage, state, mesh.devices.ravel().tolist())
        steps = Steps(stage, mesh, state, run.precompiled_dir)
        del state  # the first step takes over its memory
        with together():
            done = int(steps.state.step)
            journal = Journal(
                directory, stage.name, done, run.total_steps, throughput, run.profile, steps.wait, run.began, run.sinks
            )
        held_out = list(islice(data.held_out, run.eval_steps))
        work = _Work(stage, run, steps, data.training, held_out, checkpoints, local, journal, signals, record)
        try:
            work.take_steps()
            with journal.finish(), together():
                part = write_part(stage, steps.state, endless(data.training), directory, work.facts())
        except (StoppedError, OSError) as error:
            message = f"{stage.name}: {error}; {checkpoints.last_good(alone=isinstance(error, OSError))}"
            raise StoppedError(message, exit_code_of(error)) from error
        finally:
            journal.close()
            checkpoints.close()
            if local:
                local.close()
        stop = signals.agreed(at_meeting=True)
        if stop:
            raise StoppedError(f"{stage.name}: finished, then stopped by a signal", 128 + stop)
        return part


@dataclasses.dataclass
class _Work:
    """What the steps of one run read and write; `record` goes into every checkpoint."""

    stage: Stage
    run: Run
    steps: Steps
    batches: Batches
    held_out: list[HostBatch]
    checkpoints: Checkpoints
    local: LocalCheckpoints | None
    journal: Journal
    signals: StopSignals
    record: dict[str, Any]

    def take_steps(self) -> None:
        """Takes the steps that are left."""
        run, steps, journal = self.run, self.steps, self.journal
        step = first = int(steps.state.step)
        started = time.monotonic() - self.record["seconds"]
        while step < run.total_steps:
            step += 1
            with journal.step(step, self.batches) as batch:
                steps.dispatch(batch)
                if step == first + 1:
                    steps.wait()  # it has been compiled
            last, at_log = step == run.total_steps, step % run.log_every == 0
            if at_log or last:
                means = steps.take_means()
                with together():  # one host writes, all must know that it could
                    journal.log(step, means)
                self.checkpoints.check()
            if self.held_out and (step % run.eval_every == 0 or last):
                with journal.spent("evaluation"):
                    self.record["evaluation"] = steps.evaluate(self.held_out)
                with together():
                    journal.write(step, "eval", self.record["evaluation"])
            stop = self.signals.agreed(at_meeting=at_log)
            saver = None
            if step % run.checkpoint_every == 0 or last or stop:
                saver = self.checkpoints
            elif step % run.local_every == 0:
                saver = self.local
            if saver:
                steps.read()  # what is saved is known to be finite
                self.record |= {"seconds": time.monotonic() - started, "healthy": not steps.skipped}
                with journal.spent("checkpointing"):
                    with together():
                        journal.keep()
                    saver.save(steps.state, self.batches, self.record)
            if stop and not last:
                raise StoppedError(f"stopped by a signal at step {step}", 128 + stop)
            if self.stage.rollback_after and steps.skipped >= self.stage.rollback_after:
                with journal.spent("checkpointing"):
                    step = self.roll_back(step)
        with journal.spent("checkpointing"):
            self.checkpoints.wait()
        if self.local:
            self.local.discard(after=-1)

    def roll_back(self, step: int) -> int:
        """Goes back to the last good checkpoint, then on with other batches than those that followed it; returns its step.

        Raises:
          StoppedError: there is no such checkpoint, or it has been tried `_ROLLBACKS` times.
        """
        row = f"step {step}: {self.steps.skipped} steps in a row were skipped"
        restored = self.checkpoints.go_back(self.steps.state)
        if restored is None:
            raise StoppedError(f"{row}, before the first good checkpoint")
        good = int(restored.state.step)
        if self.local:
            self.local.discard(after=good)
        self.record["rollbacks"] = [*self.record.get("rollbacks", []), [step, good]]
        if [back for _, back in self.record["rollbacks"]].count(good) > _ROLLBACKS:
            raise StoppedError(f"{row}, as after {_ROLLBACKS} rollbacks before")
        self.steps.go_back(restored.state)
        _LOG.warning("%s; back to the checkpoint of step %d", row, good)
        self.journal.go_back(step, good)
        return good

    def facts(self) -> dict[str, Any]:
        """What the part says of its training."""
        facts = {"steps": self.run.total_steps, "data": self.run.data, "seed": self.run.seed}
        facts |= {"batch_size": self.stage.batch_size, "seconds": round(self.record["seconds"], 1)}
        facts |= {"device": jax.devices()[0].device_kind, "evaluation": self.record["evaluation"]}
        return facts | {name: self.record[name] for name in ("init_from", "rollbacks") if self.record.get(name)}
