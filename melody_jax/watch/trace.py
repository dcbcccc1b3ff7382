"""A trace of some steps of a run, as `jax.profiler` writes it (xplane, for XProf and TensorBoard)."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator

import jax

from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.storage import Path
from melody_jax.watch.goodput import Goodput

FOLDER = "profile"
_LOG = logging.getLogger(__name__)


def traced_steps(text: str) -> range:
    """The steps of "FIRST:LAST", counted from 1, both included; "" is none.

    Raises:
      UserError: it is not of this form, or empty.
    """
    if not text:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"profile {text!r} is not FIRST:LAST, two steps counted from 1, as 10:15")
    return range(int(match[1]), int(match[2]) + 1)


class Trace:
    """Traces those steps of this process that are in a range.

    Args:
      steps: to be traced.
      left: that this process will run; where none of `steps` is among them it says so.
      directory: the run's folder; traces go to its `profile`, on several hosts to `profile/host0` and so on.
      wait: returns when every dispatched step is done, so that the trace holds these steps and no others.
      goodput: the clock; the profiler's own time is no step's.
    """

    def __init__(self, steps: range, left: range, directory: Path, wait: Callable[[], None], goodput: Goodput):
        if steps and not (steps.start < left.stop and left.start < steps.stop):
            where = f"which runs steps {left.start} to {left.stop - 1}" if left else "which has no step left"
            _LOG.warning("profile: no step of %d:%d is traced by this process, %s", steps.start, steps.stop - 1, where)
        host = f"host{jax.process_index()}" if jax.process_count() > 1 else ""
        self._steps, self._wait, self._goodput = steps, wait, goodput
        self._directory = directory / FOLDER / host
        self._tracing = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Step `number`, with the wait for its batch."""
        self._trace(number in self._steps)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        self._trace(number + 1 in self._steps and self._tracing)

    def close(self) -> None:
        """Ends a trace that is running; one that cannot be written is reported and dropped."""
        if not self._tracing:
            return
        self._tracing = False
        with self._goodput.spent("profiling"):
            try:
                with self._writing:
                    jax.profiler.stop_trace()
            except (OSError, RuntimeError) as error:
                _LOG.warning("no trace in %s: %s", self._directory, error)

    def _trace(self, wanted: bool) -> None:
        if wanted == self._tracing:
            return
        self._wait()
        if not wanted:
            return self.close()
        with self._goodput.spent("profiling"):
            self._writing = contextlib.ExitStack()
            jax.profiler.start_trace(self._writing.enter_context(storage.written_folder(self._directory)))
            self._tracing = True
