"""`melody train lm` on a pod of real processes (`launch.local_pod`): the numbers, and what a host's end does to them.

And `melody data` there."""

import os
import resource
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from data_pipelines import read
from melody_jax.bundle.part import load_part
from melody_jax.cli.main import main
from melody_jax.files import read_lines
from tests.data_pipelines.tones import RATE, write_music
from tests.train import processes

TOTAL, SAVE_EVERY = 100, 20
BINDINGS = (
    "lm.LMConfig.layers=1",
    "lm.LMConfig.width=32",
    "lm.LMConfig.heads=2",
    "lm.LMConfig.hidden=32",
    "BATCH_SIZE=8",
    f"loop.Run.checkpoint_every={SAVE_EVERY}",
    "loop.Run.log_every=1",
    f"loop.Run.eval_every={TOTAL}",
    "loop.Run.eval_steps=1",
)
WARM_UP = 45  # seconds that a pod of four may take to its first steps and to its end, on two cores


def start(models, data, hosts, devices, *options):
    """The pod, started."""
    settings = [word for binding in BINDINGS for word in ("--set", binding)]
    where = ["--data", "music", "--data_dir", data, "--model_dir", models, "--hardware", "cpu"]
    command = ["melody", "train", "lm", "--size", "tiny", *where, "--total_steps", TOTAL, *settings]
    cache = os.environ.get("MELODY_TEST_CACHE", ".cache/jax")
    pod = ["--hosts", hosts, "--devices_per_host", devices, *options, "--", *command]
    return processes.start("launch.local_pod", *pod, JAX_COMPILATION_CACHE_DIR=cache)


def finish(process):
    """(exit code, all that the pod and its hosts printed)."""
    out, errors = process.communicate(timeout=600)
    return process.returncode, out + errors


def hosts_of(process):
    """Process ids of the pod's hosts, in the order of their numbers."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(word) for word in file.read().split()]


def losses(models):
    """[step, loss] of every logged step; each step once."""
    lines = [line for line in read_lines(models / "lm" / "metrics.jsonl") if line["split"] == "train"]
    return np.array([(line["step"], line["loss"]) for line in lines])


def assert_same_run(models, other):
    """The same curve without a seam, and the same parameters, up to the order of sums over hosts."""
    curve, curve_other = losses(models), losses(other)
    np.testing.assert_array_equal(curve[:, 0], np.arange(1, TOTAL + 1))
    np.testing.assert_allclose(curve, curve_other, rtol=2e-5)
    params = [load_part(folder / "lm").params for folder in (models, other)]
    jax.tree.map(lambda leaf, leaf_other: np.testing.assert_allclose(leaf, leaf_other, atol=2e-4), *params)


@pytest.fixture(scope="module")
def whole(tokenised, tmp_path_factory):
    """A model folder trained by one host with eight devices, without interruption."""
    models, data = tokenised
    folder = shutil.copytree(models, tmp_path_factory.mktemp("pods") / "whole")
    code, said = finish(start(folder, data, 1, 8))
    assert code == 0, said
    return folder


@pytest.fixture(scope="module", params=[(2, 4), pytest.param((4, 2), marks=pytest.mark.slow)], ids=str)
def pod(request):
    """(hosts, devices of each)."""
    return request.param


@pytest.fixture(scope="module")
def broken(tokenised, pod, tmp_path_factory):
    """A model folder of which the pod had trained a part when its last host was killed."""
    models, data = tokenised
    folder = shutil.copytree(models, tmp_path_factory.mktemp("pods") / "broken")
    process = start(folder, data, *pod, "--grace", 5)
    saved = folder / "lm" / "checkpoints" / str(SAVE_EVERY)
    processes.wait_until(process, lambda: processes.complete(saved) and processes.logged(folder / "lm", SAVE_EVERY + 2))
    last = pod[0] - 1
    os.kill(hosts_of(process)[last], signal.SIGKILL)
    killed = time.monotonic()
    code, said = finish(process)
    assert time.monotonic() - killed < WARM_UP
    assert code == 128 + signal.SIGKILL
    assert f"pod: host {last} was killed by signal 9; the others are stopped" in said
    assert not (folder / "lm" / "part").exists()
    return folder


def test_hosts_of_which_one_is_killed_and_one_preempted_train_as_one(tokenised, whole, pod, broken, tmp_path):
    """Killed in the fixture; started again, told to stop (SIGTERM to one host), started again by the pod itself."""
    folder, data = shutil.copytree(broken, tmp_path / "models"), tokenised[1]
    before = losses(folder)
    process = start(folder, data, *pod, "--restarts", 1)
    processes.wait_until(process, lambda: processes.logged(folder / "lm", len(before) + 3))
    os.kill(hosts_of(process)[1], signal.SIGTERM)
    code, said = finish(process)
    assert code == 0, said
    assert "stopped by a signal at step" in said and "pod: stopped with exit code 143, start 2 of 2" in said
    np.testing.assert_array_equal(losses(folder)[:SAVE_EVERY], before[:SAVE_EVERY])  # it did not begin anew
    assert_same_run(folder, whole)


@pytest.mark.parametrize("hosts, devices", [(1, 8), pytest.param(2, 4, marks=pytest.mark.slow)])
def test_a_checkpoint_is_read_by_another_number_of_hosts(tokenised, whole, broken, tmp_path, hosts, devices):
    folder = shutil.copytree(broken, tmp_path / "models")
    code, said = finish(start(folder, tokenised[1], hosts, devices))
    assert code == 0, said
    np.testing.assert_array_equal(losses(folder)[:SAVE_EVERY], losses(broken)[:SAVE_EVERY])
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_a_checkpoint_cut_short_sends_all_hosts_to_the_one_before(tokenised, whole, tmp_path):
    folder, data = shutil.copytree(tokenised[0], tmp_path / "models"), tokenised[1]
    process = start(folder, data, 2, 4)
    later = folder / "lm" / "checkpoints" / str(2 * SAVE_EVERY)
    processes.wait_until(
        process, lambda: processes.complete(later) and processes.logged(folder / "lm", 2 * SAVE_EVERY + 2)
    )
    for number in (process.pid, *hosts_of(process)):
        os.kill(number, signal.SIGKILL)
    process.communicate(timeout=60)
    largest = max((path for path in later.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    code, said = finish(start(folder, data, 2, 4))
    assert code == 0, said
    assert f"checkpoints/{2 * SAVE_EVERY} cannot be read, trying the one before" in said
    assert_same_run(folder, whole)


@pytest.mark.slow  # hosts that wait for one another: minutes
@pytest.mark.parametrize("full", [(1,), (0, 1)], ids=str)
def test_a_full_disk_ends_all_hosts_and_the_same_command_goes_on(tokenised, whole, tmp_path, full):
    """A limit on file sizes stands in for the full disk of these hosts: host 0 writes logs too, host 1 checkpoints only."""
    folder, data = shutil.copytree(tokenised[0], tmp_path / "models"), tokenised[1]
    process = start(folder, data, 2, 4, "--restarts", 1)
    saved = folder / "lm" / "checkpoints" / str(SAVE_EVERY)
    processes.wait_until(process, lambda: processes.complete(saved) and processes.logged(folder / "lm", SAVE_EVERY + 2))
    hosts = hosts_of(process)
    for host in full:
        resource.prlimit(hosts[host], resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    code, said = finish(process)
    assert code == 4 and "start 2 of 2" not in said
    errors = sorted(line for line in said.splitlines() if "error: " in line)
    assert [line[: len("[0] error: lm: ")] for line in errors] == ["[0] error: lm: ", "[1] error: lm: "], said
    assert all("File too large" in line and line.endswith(f"checkpoint is {saved}") for line in errors)
    before = losses(folder)
    assert SAVE_EVERY + 2 <= len(before) < 3 * SAVE_EVERY
    code, said = finish(start(folder, data, 2, 4))
    assert code == 0, said
    np.testing.assert_array_equal(losses(folder)[:SAVE_EVERY], before[:SAVE_EVERY])  # it did not begin anew
    assert_same_run(folder, whole)


@pytest.mark.slow  # two processes that import TensorFlow
def test_a_data_set_is_built_by_all_hosts(tmp_path):
    music = write_music(tmp_path / "music", 5)
    form = ["--seconds", 1, "--sample_rate", RATE, "--processes", 1, "--name", "mine"]
    command = ["melody", "data", "folder", music, *form]
    pod = ["--hosts", 2, "--", *command, "--data_dir", tmp_path / "pod", "--all_hosts"]
    code, said = finish(processes.start("launch.local_pod", *pod))
    assert code == 0 and said.count("h of music in") == 1, said
    assert main([*map(str, command[1:]), "--data_dir", str(tmp_path / "alone")]) == 0
    folders = [tmp_path / name / "melody_audio" / "mine" / read.AUDIO_VERSION for name in ("pod", "alone")]
    both = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert both[0] == both[1]
