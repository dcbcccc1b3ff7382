"""How long Pallas kernels take. The TPU compiler puts no estimate of them into the program, but writes their schedules.

A line of a final schedule is a bundle: what the core does in one cycle. A kernel's own name ends with the steps of its grid
(`attention_forward_128_steps`); it takes that many times the bundles of a step. Where a step has loops of its own, the name
tells their rounds (`sru_forward_40x10_steps`); without, they count once: they copy the rest of a block.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from melody_jax import libtpu

_FILE = re.compile(r"^\d+-(.+_(\d+)(?:x(\d+))?_steps)[_.\d]*-\d+-final_bundles\.txt$")
_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s[A-Z:, ]*:\s*((?:> ?)*)\{")


@contextlib.contextmanager
def schedules() -> Iterator[Path]:
    """A folder that libtpu writes final schedules to, where it is loaded inside; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="melody_schedules_") as folder:
        dumps = {"dump_to": folder, "dump_llo_text": "true", "dump_llo_pass_label_regex": "^final_bundles"}
        flags = [os.environ.get(libtpu.VARIABLE, ""), *(f"--xla_jf_{name}={value}" for name, value in dumps.items())]
        with libtpu.held(" ".join(flags)):
            yield Path(folder)


def cycles(folder: Path) -> dict[str, int]:
    """Name of a kernel, without the number that its calls have -> cycles of a call. Calls of a name that differ (in what
    lies in fast memory already) count as the slowest; those that are equal the compiler schedules once.
    """
    found: dict[str, int] = {}
    for path in sorted(folder.iterdir()):
        match = _FILE.match(path.name)
        if match:
            cycles = _cycles(path.read_text(), int(match[2]), int(match[3] or 1))
            found[match[1]] = max(found.get(match[1], 0), cycles)
    return found


def _cycles(schedule: str, steps: int, rounds: int) -> int:
    depths = (match[1].count(">") for match in map(_BUNDLE.match, schedule.splitlines()) if match)
    times = (1, steps, steps * rounds)
    return sum(times[min(depth, 2)] for depth in depths)
