"""What a training that a full disk ends says of it."""

import os
import subprocess
import sys

from melody_jax.errors import STOPPED
from tests.operations.full_disk import ROUNDS


def test_a_checkpoint_that_finds_no_room_is_one_line(tmp_path):
    """The other arrays that orbax was writing then say nothing (it would be hundreds of lines)."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "tests.operations.full_disk", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == ROUNDS and all(line.startswith(f"{STOPPED} a checkpoint could not be") for line in lines)
