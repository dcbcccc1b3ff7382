"""What Prometheus is told. Imports no jax."""

import time
from collections.abc import Callable

import prometheus_client as prometheus

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self):
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        self.requests = prometheus.Counter(
            "melody_requests", "HTTP requests", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = prometheus.Histogram(
            "melody_request_seconds", "until an answer began", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.jobs = prometheus.Counter("melody_jobs", "jobs that ended", ["verb", "state"], registry=self.registry)
        self.refused = prometheus.Counter("melody_refused", "jobs refused: queue full", registry=self.registry)
        self.waited = prometheus.Histogram(
            "melody_job_waiting_seconds", "in the queue", buckets=_SECONDS, registry=self.registry
        )
        self.worked = prometheus.Histogram(
            "melody_job_working_seconds",
            "of work, for a whole batch",
            ["verb"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch = prometheus.Histogram(
            "melody_batch_pieces", "pieces made together", buckets=(1, 2, 4, 8, 16), registry=self.registry
        )
        self.music = prometheus.Counter("melody_music_seconds", "seconds of music made", registry=self.registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        prometheus.Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of it in Prometheus's format."""
        return prometheus.generate_latest(self.registry)


class Counted:
    """ASGI middleware: counts requests by route, never by address, so that labels stay few."""

    def __init__(self, app, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun, status = time.monotonic(), 500

        async def watched(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._metrics.request_seconds.labels(_route(scope)).observe(time.monotonic() - begun)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            method = scope["method"] if scope["method"] in ("GET", "POST", "PATCH", "DELETE") else "other"
            self._metrics.requests.labels(method, _route(scope), status).inc()


def _route(scope) -> str:
    return getattr(scope.get("route"), "path", "other")
