"""Joining the processes of a pod: what the environment says is checked before JAX waits for others."""

import pytest

from melody_jax.errors import UserError
from melody_jax.parallel import hosts
from tests.train import processes


@pytest.fixture
def joined(monkeypatch):
    """The arguments with which jax.distributed was called."""
    calls = []
    monkeypatch.setattr(hosts.jax.distributed, "initialize", lambda **options: calls.append(options))
    monkeypatch.setattr(hosts.os.path, "exists", lambda path: False)
    for name in (hosts.COORDINATOR, hosts.COUNT, hosts.INDEX, "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_one_process_joins_nobody(joined):
    hosts.join()
    assert not joined


def test_a_launcher_names_the_others(joined, monkeypatch):
    for name, value in ((hosts.COORDINATOR, "127.0.0.1:1234"), (hosts.COUNT, "4"), (hosts.INDEX, "3")):
        monkeypatch.setenv(name, value)
    hosts.join()
    (options,) = joined
    assert (options["coordinator_address"], options["num_processes"], options["process_id"]) == ("127.0.0.1:1234", 4, 3)


def test_slurm_and_tpu_hosts_are_found_by_jax(joined, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "8")
    hosts.join()
    monkeypatch.delenv("SLURM_NTASKS")
    monkeypatch.setattr(hosts.os.path, "exists", lambda path: path == "/dev/accel0")
    hosts.join()
    assert joined == [{"heartbeat_timeout_seconds": hosts.HEARTBEAT_SECONDS}] * 2


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({hosts.COORDINATOR: "a:1"}, "JAX_COORDINATOR_ADDRESS want JAX_NUM_PROCESSES and JAX_PROCESS_ID beside them"),
        ({hosts.COORDINATOR: "a:1", hosts.COUNT: "2", hosts.INDEX: "2"}, "JAX_PROCESS_ID=2 is no index of"),
        ({hosts.COORDINATOR: "a:1", hosts.COUNT: "two", hosts.INDEX: "0"}, "JAX_NUM_PROCESSES=two processes"),
    ],
)
def test_what_is_incomplete_is_refused(joined, monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        hosts.join()
    assert not joined


@pytest.mark.slow  # waits longer than Gloo would
def test_a_host_may_be_late():
    """At the first meeting, and at the first run of a program that it is slow to compile."""
    host = ["python", "-m", "tests.parallel.late_host"]
    pod = processes.start("launch.local_pod", "--hosts", 2, "--devices_per_host", 2, "--", *host)
    out, errors = pod.communicate(timeout=600)
    assert pod.returncode == 0 and out.count("total 6.0") == 2, out + errors
