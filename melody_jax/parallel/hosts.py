"""Several processes, one run: joining them before JAX looks for devices."""

import os

import jax

from melody_jax.errors import UserError

COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""Environment variables by which a launcher that JAX does not know names address, number and index of the processes."""

HEARTBEAT_SECONDS = 30
"""A host that is silent for so long is taken for dead, and the others end."""

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


def part() -> None:
    """Takes leave of the other hosts, which do so too; nothing where there are none.

    Threads that still wait for another host, as those of a checkpoint that it could not write, end with it.
    """
    jax.distributed.shutdown()
