"""The one thread that makes music, what waits for it, and what it made."""

import asyncio
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import jax

from melody_jax.errors import UserError
from melody_jax.generate import Cancelled, Melody, Progress
from melody_jax.generate.settings import with_settings
from melody_jax.serve import memory
from melody_jax.serve.fair_queue import ClosedError, FairQueue, FullError
from melody_jax.serve.jobs import CANCELLED, DONE, FAILED, FINAL, RUNNING, Job, Jobs, Wanted
from melody_jax.serve.limits import Limits
from melody_jax.serve.live import Live
from melody_jax.serve.metrics import Metrics
from melody_jax.serve.perform import perform, takes_of
from melody_jax.serve.takes import Takes

STOPPING = "the server is stopping"
_HALT_SECONDS = 60.0
"""How long the end waits for the step that runs."""
_COMPILED = "/jax/core/compile/backend_compile_duration"
log = logging.getLogger("melody_jax.serve")


class Service:
    """Takes jobs and streams in, makes them in fair turns, keeps the takes.

    Only its worker's thread calls `melody`. All else may be called from the event loop.

    Attributes:
      defaults: the bundle's settings, within the limits.
      stopping: whether nothing is taken in any more.
      ended: when the last job ended, by the monotonic clock.
    """

    def __init__(self, melody: Melody, limits: Limits = Limits()):  # noqa: B008  it is frozen
        self.melody, self.limits = melody, limits
        most = {name: getattr(limits, name) for name in ("seconds", "candidates", "steps")}
        own = melody.defaults
        self.defaults = with_settings(own, {name: min(getattr(own, name), value) for name, value in most.items()})
        self.jobs, self.takes, self.metrics = Jobs(limits.jobs), Takes(limits.kept_mib << 20), Metrics()
        self.streams: dict[str, Live] = {}
        self.stopping, self.ended = False, -math.inf
        self._queue: FairQueue[Any] = FairQueue(limits.waiting, limits.waiting_each, limits.batch)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._halt = threading.Event()
        self._running: list[Job] = []
        self._ending = threading.Lock()
        self._pace = 5.0  # seconds of work for a job, lately
        self._compiled = 0
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self._watch()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to work; news goes to that loop."""
        self._loop = loop
        jax.monitoring.register_event_duration_secs_listener(self._count_program)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the worker works."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    @property
    def retry_after(self) -> int:
        """Seconds after which there may be room again."""
        return max(1, min(120, round(self._pace * max(1, self.waiting) / 4)))

    def submit(self, client: str, wanted: Wanted) -> Job:
        """Takes a job in.

        Raises:
          FullError, ClosedError: it does not.
        """
        job = Job(client, wanted, self._loop)
        self.jobs.add(job)
        try:
            self._queue.put(client, job, wanted.key)
        except (FullError, ClosedError) as error:
            self.jobs.drop(job.id)
            if isinstance(error, FullError):
                self.metrics.refused.inc()
            raise
        return job

    def cancel(self, job: Job) -> None:
        """Cancels a job: at once if it waits, after the current step if it runs alone."""
        job.stop.set()
        for waiting in self._queue.remove(lambda item: item is job):
            self._end(waiting, CANCELLED)

    def listen(self, client: str, call: dict[str, Any], seconds: float) -> Live:
        """A new stream.

        Raises:
          FullError, ClosedError: there is no room for it.
        """
        if self.stopping or self._loop is None:
            raise ClosedError(STOPPING)
        own = [live for live in self.streams.values() if live.client == client]
        if len(self.streams) >= self.limits.streams:
            self.metrics.refused.inc()
            raise FullError(own=len(own) >= self.limits.streams)
        live = Live(client, call, seconds, self._loop)
        self.streams[live.id] = live
        return live

    def ask(self, live: Live) -> None:
        """A turn of the worker for a stream; it ends where there is none to be had."""
        try:
            self._queue.put(live.client, live, urgent=True)
        except ClosedError:
            live.end()

    def leave(self, live: Live) -> None:
        """Nobody listens any more."""
        self.streams.pop(live.id, None)
        live.ended = True
        self._queue.remove(lambda item: item is live)

    async def close(self, grace: float) -> None:
        """Hands back what waits, finishes what runs, but stops it after `grace` seconds."""
        if not self.stopping:
            self.stopping = True
            jax.monitoring.unregister_event_duration_listener(self._count_program)
            for item in self._queue.close():
                if isinstance(item, Job):
                    self._end(item, CANCELLED, STOPPING)
            for live in list(self.streams.values()):
                live.end()
        await asyncio.to_thread(self._thread.join, grace)
        if self._thread.is_alive():
            self._halt.set()
            await asyncio.to_thread(self._thread.join, _HALT_SECONDS)
        for job in self.jobs.open():  # of a step that does not come to its end
            self._end(job, CANCELLED, STOPPING)

    def _work(self) -> None:
        while batch := self._queue.take():
            before = self._compiled
            try:
                if isinstance(batch[0], Live):
                    self.metrics.music.inc(batch[0].play(self.melody))
                else:
                    self._make(batch)
            except Exception:  # whatever it is, the next one gets its turn
                log.exception("a turn of the worker failed")
            if self._compiled == before:
                continue
            if self._compiled > self.limits.programs:
                jax.clear_caches()
                self._compiled = 0
            memory.give_back()  # what compiling has used

    def _make(self, jobs: Sequence[Job]) -> None:
        """One call of `Melody`: every job ends in one of the final states."""
        begun = time.monotonic()
        for job in jobs:
            job.tell(state=RUNNING, begun=begun)
            self.metrics.waited.observe(begun - job.asked)
        self._running = list(jobs)

        def progress(state: Progress) -> None:
            for job in jobs:
                if job.state == RUNNING:
                    job.tell(done=state.done, total=state.total, step=state.step)

        def cancel() -> bool:
            return self._halt.is_set() or all(job.stop.is_set() for job in jobs)

        try:
            results = perform(self.melody, [job.wanted for job in jobs], progress=progress, cancel=cancel)
            for job, result in zip(jobs, results, strict=True):
                made = takes_of(self.melody, job.wanted, result)
                if job.stop.is_set():
                    self._end(job, CANCELLED)
                    continue
                for take in reversed(made):  # the best one is kept longest
                    self.takes.add(take)
                    self.metrics.music.inc(take.seconds)
                self._end(job, DONE, takes=tuple(take.id for take in made))
        except Cancelled:
            for job in jobs:
                self._end(job, CANCELLED, STOPPING if self._halt.is_set() else "")
        except Exception as error:
            open_ones = [job for job in jobs if job.state == RUNNING]
            if len(open_ones) > 1:  # one must not fail for another
                for job in open_ones:
                    if job.state == RUNNING:  # the end of the server may have come meanwhile
                        self._make([job])
                return
            known = isinstance(error, UserError)
            if not known:
                log.exception("a job failed")
            for job in open_ones:
                self._end(job, FAILED, str(error) if known else "an error of the server; its log says more")
        finally:
            self._running = []
        took = time.monotonic() - begun
        self._pace += 0.2 * (took / len(jobs) - self._pace)
        self.metrics.batch.observe(len(jobs))
        self.metrics.worked.labels(jobs[0].wanted.verb).observe(took)

    def _end(self, job: Job, state: str, error: str = "", takes: tuple[str, ...] = ()) -> None:
        """Brings a job to its end, unless it has one."""
        with self._ending:
            if job.state in FINAL:
                return
            self.metrics.jobs.labels(job.wanted.verb, state).inc()
            self.ended = time.monotonic()
            wanted = dataclasses.replace(job.wanted, take=None)  # a job remembered must not hold music
            job.tell(error=error, takes=takes, ended=self.ended, wanted=wanted, state=state)  # the state is read first

    def _count_program(self, event: str, *_: Any, **__: Any) -> None:
        self._compiled += event == _COMPILED

    def _watch(self) -> None:
        watch = self.metrics.watch
        watch("melody_jobs_waiting", "jobs in the queue", lambda: self.waiting)
        watch("melody_jobs_running", "jobs that are worked on", lambda: len(self._running))
        watch("melody_streams", "streams that play", lambda: len(self.streams))
        watch("melody_takes", "takes that are kept", lambda: len(self.takes))
        watch("melody_takes_bytes", "memory of the takes", lambda: self.takes.bytes)
        watch("melody_programs", "programs compiled since all were dropped", lambda: self._compiled)
