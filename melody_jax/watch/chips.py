"""TPU chips and what they can do: the denominators of memory and MFU.

Of kinds whose chips JAX sees as two devices, a device stands for a chip here, with half of what the chip has.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip as its maker describes it (cloud.google.com/tpu/docs, system architecture).

    Attributes:
      hbm_bytes: memory.
      flops: peak of bfloat16 products, per second.
      bandwidth: bytes per second from and to its memory.
      clock: cycles per second; the peak divided by what the matrix units do in one.
      link: bytes per second that a chip receives over one of its links to neighbours, as measured ("How to Scale Your
        Model", Austin et al., 2025, chapter 2).
      network: bytes per second that it receives of other slices, its share of its host's network (the same book).
    """

    hbm_bytes: float
    flops: float
    bandwidth: float
    clock: float
    link: float
    network: float


CHIPS = {
    "v4": Chip(32e9, 275e12, 1.228e12, 1.05e9, 45e9, 6.25e9),
    "v5e": Chip(16e9, 197e12, 0.819e12, 1.5e9, 45e9, 3.125e9),
    "v5p": Chip(95e9, 459e12, 2.765e12, 1.75e9, 90e9, 6.25e9),
    "v6e": Chip(32e9, 918e12, 1.64e12, 1.75e9, 90e9, 12.5e9),
    # half a chip of 192 GB, 2,307 TFLOP/s, 7.38 TB/s, whose links, two to each of three axes, carry 100 GB/s each way,
    # and whose host has 100 Gbit/s for each (Google's figures; nobody's measurement)
    "tpu7x": Chip(96e9, 1153.5e12, 3.69e12, 2.2e9, 50e9, 6.25e9),
}

DEVICE_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}
"""What JAX calls a device (`device_kind`) -> its chip."""


def of_device(kind: str) -> Chip | None:
    """The chip of a `device_kind`; None where it is no TPU of the table."""
    return CHIPS[DEVICE_KINDS[kind]] if kind in DEVICE_KINDS else None
