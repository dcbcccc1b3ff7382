"""A pod reads its checkpoint from the storage once, not once on each host."""

import re

import pytest

from tests.train import processes


@pytest.mark.parametrize("mesh", ["data=4", pytest.param("data=2,fsdp=2", marks=pytest.mark.slow)])
def test_two_hosts_read_half_of_the_checkpoint_each(mesh, tmp_path):
    """Both get the whole, to the bit: what they hold alike, one reads and sends to the other."""
    host = ["python", "-m", "tests.train.reading_hosts", tmp_path, mesh]
    pod = processes.start("launch.local_pod", "--hosts", 2, "--devices_per_host", 2, "--", *host)
    out, errors = pod.communicate(timeout=600)
    assert pod.returncode == 0, out + errors
    read = [int(size) for size in re.findall(r"read (\d+)", out)]
    stored = sum(path.stat().st_size for path in tmp_path.glob("0/state/**/d/*"))
    assert len(read) == 2 and max(read) < 0.55 * stored, (read, stored)
