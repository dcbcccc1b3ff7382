"""The training of a launch, made small enough for a pod on this machine: narrow (configs/rehearsal), few devices, few rows.

Data set, geometry, mesh axes and storage stay those of the launch.
"""

import dataclasses
import math
import os
from collections.abc import Sequence

from melody_jax.errors import UserError
from melody_jax.operations.rehearsal.slices import Slices
from melody_jax.parallel import mesh
from melody_jax.stages.autoencoder import AutoencoderStage
from melody_jax.train.stage import Stage

ROWS = 2
"""Rows on a device, unless the training has fewer."""
GAME = 5
"""The step at which discriminators begin, where there are any."""


@dataclasses.dataclass(frozen=True)
class Small:
    """What runs here in place of the slices.

    Attributes:
      hosts, devices: of the simulated pod; devices of each host.
      mesh: over all of them, the axes of the training's own.
      batch: global.
    """

    hosts: int
    devices: int
    mesh: str
    batch: int

    def words(self, stage: Stage) -> list[str]:
        """What is added to the words of `melody train`, whose last ones count."""
        bindings = {"BATCH_SIZE": self.batch}
        if isinstance(stage, AutoencoderStage) and stage.adversarial:
            bindings["stage.AutoencoderStage.adversarial_start"] = GAME
        narrow = ["--hardware", "cpu", "--mesh", self.mesh, "--gin_file", f"rehearsal/{stage.name}.gin"]
        return [*narrow, *(f"--gin.{name}={value}" for name, value in bindings.items())]


def small(slices: Slices, spec: str, batch: int, hosts: int | None = None) -> Small:
    """As many hosts as the slices have, or as this machine has cores (two at least).

    Args:
      spec: the training's mesh.
      batch: its global batch.
      hosts: instead.

    Raises:
      UserError: more hosts than the slices have, or fewer than two where they have several.
    """
    fitting = min(slices.hosts, max(2, os.cpu_count() or 1))
    hosts = fitting if hosts is None else hosts
    if not min(2, slices.hosts) <= hosts <= slices.hosts:
        raise UserError(
            f"--hosts {hosts}: the slices have {slices.hosts}, and a rehearsal wants two where there are several"
        )
    sizes = mesh.parse_mesh(spec, slices.devices)
    axes = shrunk(tuple(sizes.values()), hosts * (slices.devices // slices.hosts))
    devices = math.prod(axes) // hosts
    if devices * hosts != math.prod(axes):
        raise UserError(f"mesh {spec!r} cannot be laid over {hosts} hosts: give another number with --hosts")
    rows = min(ROWS, batch // (slices.devices // sizes["tensor"]))
    said = ",".join(f"{axis}={size}" for axis, size in zip(sizes, axes, strict=True) if sizes[axis] > 1) or "data=1"
    return Small(hosts, devices, said, rows * math.prod(axes) // axes[list(sizes).index("tensor")])


def shrunk(sizes: Sequence[int], devices: int) -> tuple[int, ...]:
    """Divisors of the axes' sizes whose product is at most `devices`, grown in turn from 1, the smallest first: an axis
    that is there stays as long as there are devices for it."""
    found = [1] * len(sizes)
    while True:
        grown = {}
        for axis, size in enumerate(sizes):
            left = size // found[axis]
            factor = next((number for number in range(2, left + 1) if left % number == 0), 0)
            if factor and devices % (math.prod(found) * factor) == 0:
                grown[axis] = found[axis] * factor
        if not grown:
            return tuple(found)
        axis = min(grown, key=lambda axis: (found[axis], axis))
        found[axis] = grown[axis]
