"""What every request passes before it is looked at: token, size, and headers that browsers heed. Imports no jax."""

import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

JSON_BYTES = 64 << 10
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class Guard:
    """ASGI middleware.

    Args:
      token: that `Authorization: Bearer ...` must hold; None for none.
      open_paths: where nobody is asked for it: how paths begin. The root is open.
      upload_path: the one path where a body may be longer than `JSON_BYTES`; its route counts for itself.
    """

    def __init__(self, app, token: str | None, open_paths: Sequence[str], upload_path: str):
        self._app, self._token, self._open, self._upload = app, token, tuple(open_paths), upload_path

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)

        async def guarded(message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if not self._may_pass(scope, headers):
            answer = JSONResponse({"detail": "a token is needed here"}, 401, {"WWW-Authenticate": "Bearer"})
            return await answer(scope, receive, guarded)
        if scope["path"] == self._upload:
            return await self._app(scope, receive, guarded)
        read = 0

        async def bounded():
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > JSON_BYTES:
                raise HTTPException(413, f"a request has at most {JSON_BYTES >> 10} KiB")
            return message

        await self._app(scope, bounded, guarded)

    def _may_pass(self, scope, headers: Headers) -> bool:
        if (
            self._token is None
            or scope["method"] == "OPTIONS"
            or scope["path"] == "/"
            or scope["path"].startswith(self._open)
        ):
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and secrets.compare_digest(given.encode(), self._token.encode())
