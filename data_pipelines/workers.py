"""Pools of worker processes. No TensorFlow here: the workers import it."""

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

from melody_jax.errors import FAILED


def pool(processes: int, begin: Callable[..., None], *arguments: Any) -> concurrent.futures.ProcessPoolExecutor:
    """A pool of fresh processes that end with this one, also if it is killed.

    Args:
        begin: called with `arguments` in each process before its first work.
    """
    # spawn: a fork of a process that holds TensorFlow or JAX threads can hang
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(processes, context, _begin, (begin, arguments))


def _begin(begin: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin(*arguments)


def _end_with_parent() -> None:
    """Nobody else would: a worker that waits for work holds the pipe that it comes from open itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(FAILED)
