"""When a run that ended is started again."""

from collections.abc import Callable
from time import monotonic

from launch.job import Job
from launch.processes import LaunchError, Runner
from melody_jax.errors import BAD_ARGUMENTS, STOPPED

DONE = 0
HOPELESS = (BAD_ARGUMENTS, STOPPED)
"""The same command would fail in the same way again."""
FINAL = (DONE, *HOPELESS)
STOPPED_BY_SIGNAL = range(129, 160)
"""`melody train` exits with 128 + n after signal n, a checkpoint saved before; so does a shell whose command was killed."""


def run_until_done(attempt: Callable[[], int], job: Job, runner: Runner) -> int:
    """Calls `attempt` until its exit code is 0 or hopeless, with growing pauses. Returns that code.

    Raises:
      LaunchError: more than `job.restarts` failures in a row.
    """
    failures = 0
    while True:
        begin = monotonic()
        code = attempt()
        if code in FINAL:
            return code
        if monotonic() - begin >= job.backoff.reset:
            failures = 0
        if failures == job.restarts:
            raise LaunchError(f"{job.name} failed {failures + 1} times in a row, at last with exit code {code}", code)
        seconds = job.backoff.seconds(failures)
        failures += 1
        runner.say(f"exit code {code}; restart {failures} of {job.restarts} in {seconds:g} s")
        runner.pause(seconds)
