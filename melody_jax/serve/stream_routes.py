"""Endless music as one long answer, and changing it while it plays."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import fastapi
from fastapi.responses import JSONResponse, StreamingResponse

from melody_jax.serve.job_routes import UNBUFFERED, client_of
from melody_jax.serve.live import Live
from melody_jax.serve.schema import Change, Checker, Stream
from melody_jax.serve.service import Service
from melody_jax.serve.sound import MEDIA_TYPES, Encoder


class _Played(StreamingResponse):
    """Calls `leave` whatever the end is, also where the listener went before the first byte."""

    def __init__(
        self, sound: AsyncIterator[bytes], leave: Callable[[], None], media_type: str, headers: dict[str, str]
    ):
        super().__init__(sound, media_type=media_type, headers=headers)
        self._leave = leave

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


def router(service: Service, checker: Checker) -> fastapi.APIRouter:
    """Streams."""
    routes = fastapi.APIRouter(prefix="/v1/streams", tags=["streams"])
    calls: dict[str, dict[str, Any]] = {}

    def found(id: str) -> Live:
        live = service.streams.get(id)
        if live is None:
            raise fastapi.HTTPException(404, "there is no such stream, or it has ended")
        return live

    @routes.post("", response_class=StreamingResponse)
    async def stream(request: fastapi.Request, body: Stream) -> StreamingResponse:
        """Plays from the first chunk on, until the listener leaves or the server's longest stream is over.

        The header X-Stream-Id names it for changes.
        """
        call, encoder = checker.stream(body), Encoder(body.format, service.melody.sample_rate)
        live = service.listen(client_of(request), call, service.limits.stream_seconds)
        calls[live.id] = dict(call)

        async def sound() -> AsyncIterator[bytes]:
            async for chunk in live.chunks(service.melody.sample_rate, lambda: service.ask(live)):
                yield encoder.encode(chunk)
            yield encoder.finish()

        def leave() -> None:
            service.leave(live)
            calls.pop(live.id, None)

        headers = {"X-Stream-Id": live.id, "X-Seed": str(call["seed"]), **UNBUFFERED}
        return _Played(sound(), leave, MEDIA_TYPES[body.format], headers)

    @routes.patch("/{id}")
    async def change(id: str, body: Change) -> JSONResponse:
        """Other words, controls or settings, from the next chunk on."""
        live = found(id)
        live.change(checker.change(body, calls[id]))
        return JSONResponse({"id": id})

    @routes.delete("/{id}", status_code=204)
    async def end(id: str) -> fastapi.Response:
        """Enough."""
        found(id).end()
        return fastapi.Response(status_code=204)

    return routes
