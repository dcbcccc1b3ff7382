"""Jobs over HTTP: asking for music, following the work, cancelling it."""

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import fastapi
from fastapi.responses import JSONResponse, StreamingResponse

from melody_jax.serve.jobs import FINAL, Job
from melody_jax.serve.schema import Checker, Continue, Generate, Inpaint, Vary
from melody_jax.serve.service import Service

_HEARTBEAT = 15.0
"""Seconds without news after which a comment keeps the connection open."""
UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Headers of answers that come piece by piece; the second one is for nginx."""


def client_of(request: fastapi.Request) -> str:
    """Who asks, for taking turns: the address; behind a proxy the one that it forwards."""
    return request.client.host if request.client else "unknown"


def router(service: Service, checker: Checker) -> fastapi.APIRouter:
    """POST of every verb, and the jobs that come of it."""
    routes = fastapi.APIRouter(prefix="/v1", tags=["music"])

    def accepted(request: fastapi.Request, verb: str, body: Any) -> JSONResponse:
        job = service.submit(client_of(request), checker.wanted(verb, body))
        return JSONResponse(job.said(), 202, {"Location": f"/v1/jobs/{job.id}"})

    def found(id: str) -> Job:
        job = service.jobs.get(id)
        if job is None:
            raise fastapi.HTTPException(404, "there is no such job, or it was long ago")
        return job

    @routes.post("/generate", status_code=202)
    async def generate(request: fastapi.Request, body: Generate) -> JSONResponse:
        """New music."""
        return accepted(request, "generate", body)

    @routes.post("/continue", status_code=202)
    async def continue_(request: fastapi.Request, body: Continue) -> JSONResponse:
        """What comes next."""
        return accepted(request, "continue", body)

    @routes.post("/inpaint", status_code=202)
    async def inpaint(request: fastapi.Request, body: Inpaint) -> JSONResponse:
        """Some spans anew."""
        return accepted(request, "inpaint", body)

    @routes.post("/vary", status_code=202)
    async def vary(request: fastapi.Request, body: Vary) -> JSONResponse:
        """Another version."""
        return accepted(request, "vary", body)

    @routes.get("/jobs/{id}")
    async def job(id: str, wait: Annotated[float, fastapi.Query(ge=0, le=60)] = 0.0) -> JSONResponse:
        """The state of a job; with `wait`, answers when it has ended, or after `wait` seconds."""
        job = found(id)
        until = time.monotonic() + wait
        while job.state not in FINAL and (left := until - time.monotonic()) > 0:
            await job.news(job.changes, left)
        return JSONResponse(job.said())

    @routes.get("/jobs/{id}/events", response_class=StreamingResponse)
    async def events(id: str) -> StreamingResponse:
        """Server-sent events, `job` with every change, until it has ended."""
        return StreamingResponse(_events(found(id)), media_type="text/event-stream", headers=UNBUFFERED)

    @routes.delete("/jobs/{id}")
    async def cancel(id: str) -> JSONResponse:
        """Cancels a job: at once if it waits, after the current step if it runs."""
        job = found(id)
        service.cancel(job)
        return JSONResponse(job.said())

    return routes


async def _events(job: Job) -> AsyncIterator[str]:
    while True:
        told = job.changes  # before the job is read: what changes while a slow client takes the event is news
        final = job.state in FINAL
        yield f"event: job\ndata: {json.dumps(job.said())}\n\n"
        if final:
            return
        while not await job.news(told, _HEARTBEAT):
            yield ": still there\n\n"
