"""Memory goes back to the system: glibc keeps what is freed, in one place for every few threads. Imports no jax."""

import ctypes

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h


def keep_together() -> None:
    """From now on threads share two of these places, instead of having up to eight for every core. Elsewhere: nothing."""
    _call("mallopt", _ARENA_MAX, 2)


def give_back() -> None:
    """What is free in them goes back now, which it does not by itself where something used lies behind it."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:  # of glibc alone
        function(*arguments)
