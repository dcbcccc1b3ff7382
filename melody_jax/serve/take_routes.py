"""Takes: uploading, hearing, downloading, forgetting."""

import json
import re
from typing import Annotated, Any, Literal

import anyio
import fastapi
from fastapi.responses import JSONResponse, Response

from melody_jax.errors import UserError
from melody_jax.generate.sound_file import SoundFormat
from melody_jax.samples import to_int16
from melody_jax.serve.service import Service
from melody_jax.serve.sound import MEDIA_TYPES, picture_of, sound_of
from melody_jax.serve.takes import Take, new_id
from melody_jax.serve.upload import TYPES, decoded, received

UPLOAD = "/v1/takes"


class NoTakeError(Exception):
    """There is no such take."""


def found(service: Service, id: str) -> Take:
    """Raises NoTakeError."""
    take = service.takes.get(id)
    if take is None:
        raise NoTakeError("there is no such take: it never was, or had to make room")
    return take


def router(service: Service) -> fastapi.APIRouter:
    """What is done with finished music."""
    routes = fastapi.APIRouter(prefix=UPLOAD, tags=["takes"])
    # decoding, encoding and drawing take a core and some memory each: few at a time
    few = anyio.CapacityLimiter(2)

    async def apart(function: Any, *arguments: Any) -> Any:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=few)

    @routes.post("", status_code=201, openapi_extra=_BINARY)
    async def upload(
        request: fastapi.Request, title: Annotated[str, fastapi.Query(max_length=200)] = ""
    ) -> JSONResponse:
        """Takes in a sound file of any usual kind (the body is the file), as mono music."""
        limits, rate = service.limits, service.melody.sample_rate
        kind = request.headers.get("content-type", "application/octet-stream").lower()
        if not kind.startswith(TYPES):
            raise fastapi.HTTPException(415, f"music is uploaded as audio/..., not as {kind:.60}")
        if service.stopping:
            raise fastapi.HTTPException(503, "the server is stopping")
        stated = request.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > limits.upload_mib << 20:
            raise fastapi.HTTPException(413, f"an upload has at most {limits.upload_mib} MiB")
        async with received(request.stream(), limits.upload_mib << 20) as path:
            audio = await apart(decoded, path, rate, limits.seconds)
        shortest = service.melody.bundle.geometry.token_samples
        if len(audio) < shortest:
            raise UserError(f"this file cannot be used: it is shorter than {shortest / rate:g} s")
        take = Take(new_id(), to_int16(audio), rate, "upload", title)
        service.takes.add(take)
        return JSONResponse(take.said(), 201, {"Location": f"{UPLOAD}/{take.id}"})

    @routes.get("/{id}")
    async def take(id: str) -> JSONResponse:
        """What it is."""
        return JSONResponse(found(service, id).said())

    @routes.get("/{id}/audio", response_class=Response)
    async def audio(
        id: str,
        format: Literal["wav", "flac", "ogg", "mp3"] = "wav",
        bits: int = 16,
        rate: int | None = None,
    ) -> Response:
        """The sound file, with what made it inside."""
        take, form = found(service, id), SoundFormat(format, bits, rate)
        data = await apart(sound_of, take, form)
        return Response(data, media_type=MEDIA_TYPES[format], headers=_named(take, format))

    @routes.get("/{id}/json")
    async def made(id: str) -> Response:
        """All that makes it again: for `melody generate --from`."""
        take = found(service, id)
        text = json.dumps({**take.said(), **take.made}, indent=1) + "\n"
        return Response(text, media_type="application/json", headers=_named(take, "json"))

    @routes.get("/{id}/picture", response_class=Response)
    async def picture(id: str) -> Response:
        """A PNG: waveform and notes."""
        take = found(service, id)
        return Response(await apart(picture_of, take), media_type="image/png", headers=_named(take, "png"))

    @routes.delete("/{id}", status_code=204)
    async def forget(id: str) -> Response:
        """Gives its memory back."""
        if not service.takes.drop(id):
            raise NoTakeError("there is no such take")
        return Response(status_code=204)

    return routes


_BINARY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def _named(take: Take, ending: str) -> dict[str, str]:
    name = re.sub(r"[^a-z0-9]+", "-", take.title.lower()).strip("-")[:50] or "music"
    return {"Content-Disposition": f'attachment; filename="{name}-{take.id[:5]}.{ending}"', "Cache-Control": "private"}
