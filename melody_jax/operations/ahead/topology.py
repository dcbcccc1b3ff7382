"""TPU slices by name: their chip, and their devices for the compiler."""

import os
import re
from typing import Any

from melody_jax.errors import UserError, of_extra
from melody_jax.watch.chips import CHIPS, Chip


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as "v5e:16x16".

    Raises:
      UserError: it is not of this form, or of an unknown kind.
    """
    match = re.fullmatch(r"(\w+):\d+x\d+(x\d+)?", topology)
    if not match or match[1] not in CHIPS:
        raise UserError(f"topology {topology!r} is not KIND:AxB or KIND:AxBxC with a kind of {', '.join(CHIPS)}")
    return CHIPS[match[1]]


def devices_of(topology: str, slices: int = 1) -> list[Any]:
    """Devices that can be compiled for, not run on.

    Raises:
      UserError: no such topology, or libtpu is not installed.
    """
    chip_of(topology)
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU whose metadata could be asked for
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # none that another process could hold
    with of_extra("aot", "melody precompile"):
        import libtpu  # noqa: F401  # pyright: ignore[reportMissingImports]
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if topology.startswith("tpu7x:"):  # libtpu knows no defaults for it
        options |= {"chip_config_name": "default", "chips_per_host_bounds": (2, 2, 1)}
    try:
        return list(topologies.get_topology_desc(topology_name=topology, platform="tpu", **options).devices)
    except Exception as error:  # libtpu's own, without a class of their own
        raise UserError(f"topology {topology}: {str(error).splitlines()[0]}") from None
