"""The journal of a run: what the loop tells of its steps goes to metrics, clock, rates, progress bar and trace."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import jax

from melody_jax.storage import Path
from melody_jax.watch.goodput import Goodput
from melody_jax.watch.metrics import MetricWriter, plot_curves, progress_bar, show
from melody_jax.watch.sinks import Sinks
from melody_jax.watch.throughput import Throughput
from melody_jax.watch.trace import Trace, traced_steps


class Journal:
    """Everything that one process of a run writes about itself. Host 0 writes; on the others it only keeps the clock.

    Args:
      directory: the run's folder.
      name: of the stage.
      step, total: the step that the process goes on from, and the run's last.
      throughput: turns the time of steps into rates.
      profile: "FIRST:LAST", steps to be traced, "" for none.
      wait: returns when every dispatched step is done.
      began: Unix time from which start-up counts; None for now.
      sinks: other places that metrics go to (`sinks.SINKS`).

    Raises:
      OSError: the disk is full, here and from `log`, `write`, `keep` and `go_back`.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        step: int,
        total: int,
        throughput: Throughput,
        profile: str,
        wait: Callable[[], None],
        began: float | None = None,
        sinks: Sequence[str] = (),
    ):
        self._directory, self._name, self._throughput = directory, name, throughput
        self._metrics = MetricWriter(directory, step)
        self._sinks = Sinks(sinks, directory)
        self._clock = Goodput(directory, step, total, began)
        self._trace = Trace(traced_steps(profile), range(step + 1, total + 1), directory, wait, self._clock)
        self._bar = progress_bar(f"{name}, compiling", step, total)

    @contextmanager
    def step(self, number: int, batches: Any) -> Iterator[Any]:
        """One training step, inside it the next of `batches`: on the clock, in the trace, a tick of the bar."""
        with self._trace.step(number):
            with self._clock.spent("input"):
                batch = next(batches)
            with self._clock.step(number):
                yield batch
        self._bar.set_description(self._name, refresh=False)
        self._bar.update()

    def spent(self, kind: str) -> Any:
        """A context whose time is of this kind (`goodput.KINDS`)."""
        return self._clock.spent(kind)

    def log(self, step: int, means: Mapping[str, float]) -> None:
        """Writes the means since the last call with the rates of the steps, and shows the losses."""
        values = {**means, **self._throughput.rates(self._clock.take(), step)}
        show(self._bar, values)
        self.write(step, "train", values)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One record of metrics."""
        self._metrics.write(step, split, values)
        self._sinks.write(step, split, values)

    def keep(self) -> None:
        """What was logged until now will survive a kill, also in a bucket: it belongs to a checkpoint."""
        self._metrics.keep()
        self._clock.keep()

    def go_back(self, step: int, good: int) -> None:
        """The run continues from an earlier step; what was written after it is dropped."""
        self._metrics.go_back(good)
        self._clock.go_back(good)
        self.write(good, "rollback", {"from_step": float(step)})
        self._bar.update(good - step)

    @contextmanager
    def finish(self) -> Iterator[None]:
        """The time after the last step, in which the part is made."""
        self._trace.close()
        self._bar.close()
        if jax.process_index() == 0:
            print(f"{self._name}: measuring and writing the part", file=sys.stderr, flush=True)
        with self.spent("finish"):
            yield

    def close(self) -> None:
        """Ends everything that is open, and draws the curves."""
        self._trace.close()
        self._bar.close()
        self._clock.close()
        self._metrics.close()
        self._sinks.close()
        with suppress(OSError):  # a full disk has been reported
            plot_curves(self._directory, self._name)
