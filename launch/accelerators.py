"""TPU types: how many chips and hosts a slice has, in which topology, and what GKE calls it."""

import math
import re
from dataclasses import dataclass

from melody_jax.errors import UserError


@dataclass(frozen=True)
class Kind:
    """A TPU generation.

    Attributes:
      gke: value of GKE's node label cloud.google.com/gke-tpu-accelerator.
      cores: what one chip adds to the number in the type's name (v4 and v5p count TensorCores).
      topologies: number of chips -> the topology of such a slice unless another one is asked for.
      free: whether other topologies of as many chips exist.
      devices: that JAX sees on each chip.
      vm: whether it comes as TPU VMs; what does not comes through GKE alone.
    """

    gke: str
    cores: int
    topologies: dict[int, str]
    free: bool
    devices: int = 1
    vm: bool = True


_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_SOLID = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
_SOLID |= {1024: "8x8x16", 2048: "8x16x16", 4096: "16x16x16"}

KINDS = {
    "v4": Kind("tpu-v4-podslice", 2, _SOLID, free=True),
    "v5litepod": Kind("tpu-v5-lite-podslice", 1, _FLAT, free=False),
    "v5p": Kind("tpu-v5p-slice", 2, _SOLID | {6144: "16x16x24"}, free=True),
    "v6e": Kind("tpu-v6e-slice", 1, _FLAT, free=False),
    "tpu7x": Kind("tpu7x", 2, _SOLID, free=True, devices=2, vm=False),
}

CHIPS = {"v5litepod": "v5e"}
"""Name of a type -> of its chip, where that is another one."""


@dataclass(frozen=True)
class Slice:
    """A TPU slice: its type as gcloud names it (v5litepod-256), its topology, chips, hosts and chips of each host."""

    accelerator: str
    topology: str
    chips: int
    hosts: int
    gke: str

    @property
    def chips_per_host(self) -> int:
        return self.chips // self.hosts

    @property
    def chip(self) -> str:
        """The kind of chip, as `melody precompile` calls it."""
        name = self.accelerator.rpartition("-")[0]
        return CHIPS.get(name, name)

    @property
    def devices(self) -> int:
        """The number of devices that JAX sees, which a mesh divides."""
        return self.chips * _kind(self.accelerator)[0].devices

    @property
    def is_vm(self) -> bool:
        """Whether it comes as TPU VMs."""
        return _kind(self.accelerator)[0].vm

    @property
    def is_default(self) -> bool:
        """Whether the type alone, without the topology, means this slice."""
        return _kind(self.accelerator)[0].topologies.get(self.chips) == self.topology


def parse(accelerator: str, topology: str = "") -> Slice:
    """The slice of a type and, where it has several, a topology (4x4x8).

    Hosts have four chips each, as in GKE's multi-host node pools; a slice of one chip has one host.

    Raises:
      UserError: no such type, or the topology has another number of chips.
    """
    kind, number = _kind(accelerator)
    chips, rest = divmod(number, kind.cores)
    if rest or (chips not in kind.topologies and not (kind.free and topology)):
        known = ", ".join(str(count * kind.cores) for count in kind.topologies)
        raise UserError(f"accelerator {accelerator}: this type comes in sizes {known}; give others with their topology")
    topology = topology or kind.topologies[chips]
    if not re.fullmatch(r"\d+x\d+(x\d+)?", topology) or math.prod(map(int, topology.split("x"))) != chips:
        raise UserError(f"topology {topology} does not have the {chips} chips of {accelerator}")
    default = next(iter(kind.topologies.values()))
    if topology.count("x") != default.count("x") or not (kind.free or topology == kind.topologies[chips]):
        raise UserError(f"topology {topology}: {accelerator} comes as {kind.topologies[chips]}")
    return Slice(accelerator, topology, chips, max(1, chips // 4), kind.gke)


def _kind(accelerator: str) -> tuple[Kind, int]:
    name, _, number = accelerator.rpartition("-")
    if name not in KINDS or not number.isdecimal() or int(number) < 1:
        raise UserError(f"accelerator {accelerator} is none of {', '.join(f'{known}-N' for known in KINDS)}")
    return KINDS[name], int(number)
