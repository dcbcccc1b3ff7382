"""The slices that a launch asks for, as far as a forecast needs to know them."""

import dataclasses

from melody_jax.watch.chips import CHIPS, Chip


@dataclasses.dataclass(frozen=True)
class Slices:
    """All slices of a launch together.

    Attributes:
      kind: of their chips, a name of `watch.chips.CHIPS`.
      chips: that are paid for.
      devices: that JAX sees.
      hosts: their number.
      slices: their number.
    """

    kind: str
    chips: int
    devices: int
    hosts: int
    slices: int = 1

    @property
    def chip(self) -> Chip:
        """What a device of them can do."""
        return CHIPS[self.kind]
