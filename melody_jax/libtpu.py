"""Flags for the TPU compiler by kind of chip, as LIBTPU_INIT_ARGS holds them.

All are public: MaxText (github.com/AI-Hypercomputer/maxtext, benchmarks/xla_flags_library.py), Google's
accelerator-microbenchmarks and openxla.org/xla/flags_guidance. libtpu 0.0.42.1 accepts every one of them; it refuses unknown ones.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping

VARIABLE = "LIBTPU_INIT_ARGS"

_ASYNCHRONOUS = {
    "xla_enable_async_all_gather": "weights split over fsdp arrive while the layer before computes",
    "xla_tpu_enable_async_collective_fusion": "collectives run in steps beside what is fused with them",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "the same for the all-gathers of fsdp",
    "xla_tpu_enable_async_collective_fusion_multiple_steps": "one collective may run beside several operations",
    "xla_tpu_overlap_compute_collective_tc": "matrix products run beside collectives",
}
"""libtpu's own defaults today, said so that another version does not change them."""

_BETWEEN_SLICES = {
    "xla_tpu_enable_data_parallel_all_reduce_opt": "gradients' all-reduces between slices run beside the backward pass",
    "xla_tpu_data_parallel_opt_different_sized_ops": "the same for gradients of different sizes",
}

_SWITCHED_ON = {name: ("true", reason) for name, reason in (_ASYNCHRONOUS | _BETWEEN_SLICES).items()}

FLAGS: dict[str, dict[str, tuple[str, str]]] = {
    "v5e": _SWITCHED_ON,
    "v5p": _SWITCHED_ON
    | {
        "xla_tpu_megacore_fusion_allow_ags": (
            "false",
            "all-gathers stay out of fusions of both cores, to run beside them",
        ),
        "xla_enable_async_collective_permute": ("true", "neighbours' transfers run beside computation"),
        "xla_tpu_enable_ag_backward_pipelining": ("true", "the backward pass fetches the next layer's weights early"),
    },
    "v6e": _SWITCHED_ON
    | {
        "xla_tpu_scoped_vmem_limit_kib": (
            "98304",
            "fusions may hold 96 of the 128 MiB beside the core: fewer trips to HBM",
        )
    },
    "tpu7x": _SWITCHED_ON
    | {
        "xla_tpu_scoped_vmem_limit_kib": (
            "65536",
            "fusions may hold 64 MiB beside the core",
        )
    },
}
"""Kind of chip -> flag -> (value, what it is for)."""


def arguments(kind: str) -> str:
    """The flags of a kind of chip as one text; "" for a kind without any."""
    return " ".join(f"--{name}={value}" for name, (value, _) in FLAGS.get(kind, {}).items())


def environment(kind: str, given: Mapping[str, str]) -> dict[str, str]:
    """`given`, and the flags of a kind of chip where it says none of its own: an empty text is a choice too."""
    flags = arguments(kind)
    return {**({VARIABLE: flags} if flags else {}), **given}


@contextlib.contextmanager
def held(flags: str | None) -> Iterator[None]:
    """The variable has this text inside, or is not set, and is afterwards as it was."""
    before = os.environ.get(VARIABLE)
    _set(flags)
    try:
        yield
    finally:
        _set(before)


def _set(flags: str | None) -> None:
    if flags is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = flags


@contextlib.contextmanager
def flags_set(kind: str) -> Iterator[None]:
    """For this process, where it loads libtpu inside, unless its environment has flags."""
    with held(environment(kind, os.environ).get(VARIABLE)):
        yield
