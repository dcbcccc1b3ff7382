"""The addresses of the service. docs/serving.md shows them by example; /openapi.json describes them."""

import asyncio
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import fastapi
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.requests import ClientDisconnect

from melody_jax import __version__
from melody_jax.codes.controls import FASTEST, METRES, SLOWEST, TONICS
from melody_jax.codes.instruments import NAMES
from melody_jax.errors import UserError
from melody_jax.serve import job_routes, stream_routes, take_routes
from melody_jax.serve.fair_queue import ClosedError, FullError
from melody_jax.serve.guard import Guard
from melody_jax.serve.metrics import Counted
from melody_jax.serve.schema import Checker
from melody_jax.serve.service import Service
from melody_jax.serve.sound import MEDIA_TYPES
from melody_jax.serve.take_routes import NoTakeError
from melody_jax.serve.upload import TooLargeError

PAGE = pathlib.Path(__file__).parent / "page"
OPEN = ("/health", "/page/")
"""What is served without a token, beside the page itself."""


def create_app(
    service: Service, token: str | None = None, origins: Sequence[str] = (), grace: float = 30.0
) -> fastapi.FastAPI:
    """The application around a service, which it starts and closes.

    Args:
      token: that all but the page and the health must carry; None for none.
      origins: of other sites' pages that may call this one (CORS).
      grace: seconds that running work is given at the end.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: fastapi.FastAPI):
        service.start(asyncio.get_running_loop())
        yield
        await service.close(grace)

    app = fastapi.FastAPI(
        title="melody",
        version=__version__,
        description="Text to music: generate, continue, repaint, vary, stream.",
        lifespan=lifespan,
        docs_url=None,  # their pages come from a CDN
        redoc_url=None,
    )
    bundle = service.melody.bundle
    controls = bool(bundle.parts["lm"].config.get("controls", False))
    edits = "semantic" in bundle.parts
    checker = Checker(service.defaults, service.limits, controls, edits, lambda id: take_routes.found(service, id))
    app.include_router(job_routes.router(service, checker))
    app.include_router(take_routes.router(service))
    app.include_router(stream_routes.router(service, checker))
    _add_rest(app, service, controls, edits)
    _add_answers(app, service)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    app.add_middleware(Guard, token=token, open_paths=OPEN, upload_path=take_routes.UPLOAD)
    app.add_middleware(Counted, metrics=service.metrics)
    return app


def _add_rest(app: fastapi.FastAPI, service: Service, controls: bool, edits: bool) -> None:
    """The page, and what the server says of itself."""
    melody = service.melody
    about = {
        "version": __version__,
        "sample_rate": melody.sample_rate,
        "clip_seconds": melody.bundle.geometry.clip_seconds,
        "settings": dataclasses.asdict(service.defaults),
        "limits": dataclasses.asdict(service.limits),
        "edits": edits,
        "formats": list(MEDIA_TYPES),
        "controls": {
            "bpm": [SLOWEST, FASTEST],
            "keys": [f"{tonic} {mode}" for mode, tonics in TONICS.items() for tonic in tonics],
            "metres": [metre for metre in METRES if metre != "other"],
            "instruments": list(NAMES),
        }
        if controls
        else None,
    }

    @app.get("/v1/about", tags=["server"])
    def say_about() -> dict[str, Any]:
        """What this bundle can do, its settings, and the limits of this server."""
        return about

    @app.get("/health", tags=["server"])
    def health() -> JSONResponse:
        """200 while work is taken in; 503 when the server stops or its worker is gone."""
        state = "stopping" if service.stopping else "ok" if service.alive else "broken"
        return JSONResponse({"status": state, "waiting": service.waiting}, 200 if state == "ok" else 503)

    @app.get("/metrics", tags=["server"], response_class=Response)
    def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/page", StaticFiles(directory=PAGE), name="page")


def _add_answers(app: fastapi.FastAPI, service: Service) -> None:
    """Every error is one line, {"detail": ...}."""

    def say(status: int, line: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"detail": " ".join(line.split())}, status, headers)

    def invalid(request: fastapi.Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return say(422, f"{place}: {first['msg']}" if place else str(first["msg"]))

    def full(request: fastapi.Request, error: Exception) -> JSONResponse:
        own = isinstance(error, FullError) and error.own
        return say(429 if own else 503, str(error), {"Retry-After": str(service.retry_after)})

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(FullError, full)
    app.add_exception_handler(ClosedError, lambda *_: say(503, "the server is stopping", {"Retry-After": "30"}))
    app.add_exception_handler(UserError, lambda _, error: say(422, str(error)))
    app.add_exception_handler(NoTakeError, lambda _, error: say(404, str(error)))
    app.add_exception_handler(ClientDisconnect, lambda *_: say(400, "the request broke off"))
    app.add_exception_handler(TooLargeError, lambda _, error: say(413, str(error)))
    app.add_exception_handler(TimeoutError, lambda *_: say(408, "the request took too long to arrive"))
    app.add_exception_handler(json.JSONDecodeError, lambda *_: say(422, "this is no JSON"))
