"""The process that serves: it listens, and ends without losing what it has taken in."""

import asyncio
import socket
import time
import warnings
from collections.abc import Sequence

import uvicorn

from melody_jax.errors import UserError
from melody_jax.generate import Melody
from melody_jax.serve import memory
from melody_jax.serve.app import create_app
from melody_jax.serve.fair_queue import BATCHES
from melody_jax.serve.limits import Limits
from melody_jax.serve.service import Service

_FETCH_SECONDS = 5.0
"""How long the server still answers for a job and its takes after the last job has ended."""


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to that address, before any model is loaded.

    Raises:
      UserError: it cannot be had.
    """
    if not 0 <= port < 65536:
        raise UserError(f"--port must be from 0 to 65535, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    place = socket.socket(family)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host, port))
    except OSError as error:
        place.close()
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    return place


def warm(melody: Melody, limits: Limits, seconds: float) -> None:
    """Compiles what pieces of that length need, for every batch."""
    for size in (size for size in BATCHES if size <= limits.batch):
        melody.generate(["music"] * size, seconds=seconds, batch_size=size)
        memory.give_back()


def serve(
    melody: Melody,
    place: socket.socket,
    limits: Limits,
    token: str | None = None,
    origins: Sequence[str] = (),
    grace: float = 30.0,
) -> None:
    """Serves until a signal comes.

    The first SIGINT or SIGTERM takes nothing in any more, hands back what waits, finishes what runs (for at most `grace`
    seconds) and lets it be fetched; a second one ends at once.
    """
    service = Service(melody, limits)
    config = uvicorn.Config(
        create_app(service, token, origins, grace),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they quote sentences, which are not for the server's log
        _Server(config, service, grace).run(sockets=[place])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service, grace: float):
        super().__init__(config)
        self._service, self._grace = service, grace
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Task | None = None
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for place in sockets or ():
            host, port = place.getsockname()[:2]
            print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)

    def handle_exit(self, sig, frame) -> None:
        self._signals += 1
        if self._signals > 1 or self._loop is None:
            super().handle_exit(sig, frame)
        else:
            self._loop.call_soon_threadsafe(self._begin_to_end)

    def _begin_to_end(self) -> None:
        self._ending = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        await self._service.close(self._grace)
        await asyncio.sleep(max(0.0, self._service.ended + _FETCH_SECONDS - time.monotonic()))
        self.should_exit = True
