"""Several processes of one run: how they join before JAX looks for devices, and how they agree."""

import functools
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from melody_jax.errors import StoppedError, UserError, exit_code_of
from melody_jax.parallel.share import Share

COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""Environment variables by which a launcher that JAX does not know names address, number and index of the processes."""

HEARTBEAT_SECONDS = 30
"""How long a host may be silent before it is taken for dead and the others end."""

_LONGEST = 7 * 24 * 3600  # seconds that hosts wait for each other's share of a long work
_BARRIERS = itertools.count()  # each has a name of its own, equal on all hosts
_REASON = 256  # bytes of an error's message that other hosts receive
_TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")


def join() -> None:
    """Joins the processes of a pod, so that all of them see all devices; nothing where there is only this one.

    Knows a TPU slice or several (Cloud TPU VMs and GKE), SLURM, and the environment variables above.

    Raises:
      UserError: the variables are incomplete, or the others cannot be reached.
    """
    given = {name: os.environ[name] for name in (COORDINATOR, COUNT, INDEX) if name in os.environ}
    options: dict[str, str | int] = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS}
    if given:
        missing = [name for name in (COORDINATOR, COUNT, INDEX) if name not in given]
        if missing:
            raise UserError(f"{' and '.join(given)} want {' and '.join(missing)} beside them")
        if not (given[COUNT].isdigit() and given[INDEX].isdigit() and int(given[INDEX]) < int(given[COUNT])):
            raise UserError(f"{INDEX}={given[INDEX]} is no index of {COUNT}={given[COUNT]} processes")
        options |= {"num_processes": int(given[COUNT]), "process_id": int(given[INDEX])}
        options["coordinator_address"] = given[COORDINATOR]
    elif int(os.environ.get("SLURM_NTASKS", "1")) < 2 and not any(map(os.path.exists, _TPU_DEVICES)):
        return
    try:
        jax.distributed.initialize(**options)  # pyright: ignore[reportArgumentType]
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot join the other hosts: {error}") from None


def leave() -> None:
    """Disconnects this process from the other hosts; every host must call it. Nothing where there is only this one.

    This ends threads that still wait for another host, for example for its share of a checkpoint.
    """
    jax.distributed.shutdown()


@contextmanager
def together() -> Iterator[None]:
    """An error in this context on one host is raised on all of them, so that none waits for a host that has ended.

    Every host must enter it. In a run of one process, an OSError such as a full disk becomes a StoppedError.

    Raises:
      StoppedError: this host's failure, or that of the first one that failed.
    """
    if jax.process_count() == 1:
        try:
            yield
        except OSError as error:
            raise StoppedError(str(error), exit_code_of(error)) from error
        return
    code, reason, error = 0, "", None
    try:
        yield
    except Exception as caught:  # of any kind: the other hosts must know
        code, reason, error = exit_code_of(caught), str(caught) or type(caught).__name__, caught
    own = np.frombuffer(bytes([code]) + reason.encode()[:_REASON].ljust(_REASON, b"\0"), np.uint8)
    for host, told in enumerate(process_allgather(own)):
        if told[0]:
            text = told[1:].tobytes().rstrip(b"\0").decode(errors="ignore")
            raise StoppedError(reason or f"host {host}: {text}", code or int(told[0])) from error


def exchanged(text: str) -> list[str]:
    """The text of every host, in their order; every host must call it."""
    own = np.frombuffer(text.encode(), np.uint8)
    sizes = process_allgather(np.int32(own.size)).ravel()
    padded = np.zeros(max(int(sizes.max()), 1), np.uint8)
    padded[: own.size] = own
    told = process_allgather(padded)
    return [row[:size].tobytes().decode() for row, size in zip(told, sizes, strict=True)]


def process_allgather(tree: Any, tiled: bool = False) -> Any:
    """That of jax's `multihost_utils`, which here waits for all hosts also the first time."""
    _meet_once()
    return multihost_utils.process_allgather(tree, tiled)


def compiled(program: Any, *arguments: Any) -> Any:
    """The jitted program ready to run on these arguments, on all hosts: who compiles faster waits. Every host must call it.

    Gloo, which joins the CPUs of several hosts, waits 30 seconds at the first run of a program for the others and then
    gives up, which no setting changes. Connections that exist it keeps as long as it takes.
    """
    if jax.process_count() == 1:
        return program
    ready = program.lower(*arguments).compile()
    barrier()
    return ready


def barrier() -> None:
    """Waits for all hosts, days if it must be; no device takes part. Every host must call it."""
    if jax.process_count() == 1:
        return
    from orbax.checkpoint import multihost  # a second that joining alone need not take

    every = set(range(jax.process_count()))
    multihost.sync_global_processes(f"barrier {next(_BARRIERS)}", processes=every, timeout=_LONGEST)


_meet_once = functools.cache(barrier)


def share() -> Share:
    """This host's share of a work of all hosts, for longer works than steps of a training."""
    return Share(jax.process_index(), jax.process_count(), barrier)


def everywhere(done: bool) -> bool:
    """Whether the condition holds on all hosts; every host must call it."""
    return done if jax.process_count() == 1 else bool(np.all(process_allgather(np.bool_(done))))
