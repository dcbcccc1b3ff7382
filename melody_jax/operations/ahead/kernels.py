"""How long Pallas kernels take. The TPU compiler's program has no estimate of them, but the compiler can write their
schedules to files.

Each line of a final schedule is a bundle: what the core does in one cycle. The name of a kernel ends with the number of
steps of its grid (`attention_forward_128_steps`); its time is that number times the bundles of a step. If a step
contains a loop, the name has the number of its rounds too (`sru_forward_40x10_steps`). Loops without such a number copy
the rest of a block, and count once.
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
    """A folder that libtpu writes final schedules to, if it is loaded within this context; removed at its end."""
    with tempfile.TemporaryDirectory(prefix="melody_schedules_") as folder:
        dumps = {"dump_to": folder, "dump_llo_text": "true", "dump_llo_pass_label_regex": "^final_bundles"}
        flags = [os.environ.get(libtpu.VARIABLE, ""), *(f"--xla_jf_{name}={value}" for name, value in dumps.items())]
        with libtpu.held(" ".join(flags)):
            yield Path(folder)


def cycles(folder: Path) -> dict[str, int]:
    """Kernel -> cycles of a call. The compiler numbers the calls of a kernel and schedules equal ones once; where calls
    differ (in what is in fast memory already), the slowest counts.
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
