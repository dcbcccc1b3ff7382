"""Hosts of a pod agree on the step at which a preemption of one of them stops all."""

import os
import re
import signal
import sys
import time

from tests.train import processes


def test_a_preemption_of_one_host_stops_all_at_one_step_within_seconds():
    pod = processes.start("launch.local_pod", "--hosts", 2, "--", sys.executable, "-m", "tests.train.stopping")
    said = []
    while sum("ready" in line for line in said) < 2:
        line = pod.stdout.readline()
        assert line, "".join(said)
        said.append(line)
    pids = {match[1]: int(match[2]) for match in map(re.compile(r"\[(\d)\] ready (\d+)").match, said) if match}
    time.sleep(0.5)
    told = time.time()
    os.kill(pids["1"], signal.SIGTERM)
    out, errors = pod.communicate(timeout=120)
    stops = re.findall(r"stopped by 15 at (\d+) ([\d.]+)", out)
    assert len(stops) == 2 and pod.returncode == 0, out + errors
    assert stops[0][0] == stops[1][0]
    assert max(float(when) for _, when in stops) - told < 20  # a few on machines with nothing else to do
