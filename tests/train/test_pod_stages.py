"""Every stage on two hosts of two devices each makes what it makes on one host of four."""

import jax
import numpy as np
import pytest

from melody_jax import graph
from melody_jax.bundle.part import load_part
from melody_jax.files import read_lines
from tests.train import processes, six_stages


@pytest.mark.slow
@pytest.mark.parametrize("name", graph.ORDER)
def test_two_hosts_make_the_part_of_one(name, tmp_path):
    six_stages.save_parents(tmp_path / "parents")

    def trained(hosts, devices):
        folder = tmp_path / str(hosts)
        command = ["python", "-m", "tests.train.six_stages", name, folder, tmp_path / "parents", 1000]
        pod = processes.start("launch.local_pod", "--hosts", hosts, "--devices_per_host", devices, "--", *command)
        out, errors = pod.communicate(timeout=600)
        assert pod.returncode == 0, out + errors
        lines = read_lines(folder / name / "metrics.jsonl")
        times = {"steps_per_second"}
        return load_part(folder / name).params, [{k: v for k, v in line.items() if k not in times} for line in lines]

    (params, lines), (params_two, lines_two) = trained(1, 4), trained(2, 2)
    assert len(lines) == six_stages.TOTAL
    for line, line_two in zip(lines, lines_two, strict=True):
        assert line.keys() == line_two.keys()
        for metric in ("loss", "kmeans_error"):
            if metric in line:
                np.testing.assert_allclose(line_two[metric], line[metric], rtol=1e-3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=0.02 * max(1e-3, np.abs(a).max())), params, params_two
    )
