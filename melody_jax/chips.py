"""TPU chips and what they can do: the denominators of memory and MFU."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip as its maker describes it (cloud.google.com/tpu/docs, system architecture).

    Attributes:
      hbm_bytes: memory.
      flops: peak of bfloat16 products, per second.
    """

    hbm_bytes: float
    flops: float


CHIPS = {
    "v4": Chip(32e9, 275e12),
    "v5e": Chip(16e9, 197e12),
    "v5p": Chip(95e9, 459e12),
    "v6e": Chip(32e9, 918e12),
}

DEVICE_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}
"""What JAX calls a device (`device_kind`) -> its chip."""


def of_device(kind: str) -> Chip | None:
    """The chip of a `device_kind`; None where it is no TPU of the table."""
    return CHIPS[DEVICE_KINDS[kind]] if kind in DEVICE_KINDS else None
