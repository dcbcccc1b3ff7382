"""Flags of the TPU compiler: chosen by the chip, replaced by the launch file, accepted by the compiler where it is here."""

import importlib.util
import os
import subprocess
import sys

import pytest

from launch import accelerators
from launch.job import Job
from melody_jax import libtpu
from melody_jax.operations.ahead import compile as ahead
from melody_jax.watch.chips import CHIPS

ACCELERATORS = {"v5litepod-16": "v5e", "v5p-128": "v5p", "v6e-16": "v6e", "tpu7x-128": "tpu7x"}
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}


def test_every_flag_has_a_reason_and_every_kind_is_a_chip():
    assert set(libtpu.FLAGS) == set(ACCELERATORS.values()) <= set(CHIPS)
    assert all(value and reason for flags in libtpu.FLAGS.values() for value, reason in flags.values())


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_a_launch_has_its_chips_flags_unless_it_says_others(accelerator):
    flags = libtpu.arguments(ACCELERATORS[accelerator])
    job = {"name": "a", "command": ("melody", "train"), "accelerator": accelerator}
    assert Job(**job, env={"A": "1"}).environment == {libtpu.VARIABLE: flags, "A": "1"}
    for own in ("--xla_tpu_mine=1", ""):
        assert Job(**job, env={libtpu.VARIABLE: own}).environment == {libtpu.VARIABLE: own}


def test_a_chip_without_flags_adds_nothing():
    assert accelerators.parse("v4-8").chip == "v4"
    assert libtpu.environment("v4", {"A": "1"}) == {"A": "1"}


@pytest.mark.parametrize(("given", "found"), [(None, libtpu.arguments("v6e")), ("--mine=1", "--mine=1"), ("", "")])
def test_precompiling_takes_the_flags_of_a_launch(monkeypatch, given, found):
    """They are read when libtpu is loaded, which is the first thing that is asked of it."""
    monkeypatch.setenv(libtpu.VARIABLE, "")
    monkeypatch.delenv(libtpu.VARIABLE) if given is None else monkeypatch.setenv(libtpu.VARIABLE, given)
    seen = []
    monkeypatch.setattr(ahead, "_report", lambda request, schedules: seen.append(os.environ.get(libtpu.VARIABLE)) or {})
    ahead.report(ahead.Request("decoder", "paper", "v6e:4x4"))
    assert seen == [found]


@pytest.mark.slow  # libtpu is loaded anew for each kind
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="the extra `aot` is not installed")
@pytest.mark.parametrize("kind", libtpu.FLAGS)
def test_the_compiler_accepts_them(kind):
    code = (
        "import jax; from jax.sharding import NamedSharding, PartitionSpec; from melody_jax.parallel.mesh import make_mesh;"
        "from melody_jax.operations.ahead.topology import devices_of;"
        f"mesh = make_mesh('data=-1', devices_of('{TOPOLOGIES[kind]}'));"
        "x = jax.ShapeDtypeStruct((256, 512), 'float32', sharding=NamedSharding(mesh, PartitionSpec('data')));"
        "jax.jit(lambda x: (x.T @ x).sum()).lower(x).compile()"
    )
    for flags, accepted in ((libtpu.arguments(kind), True), ("--xla_tpu_none_such=true", False)):
        environment = os.environ | {libtpu.VARIABLE: flags, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
        )
        assert (done.returncode == 0) == accepted, done.stderr


def test_flags_of_a_chip_hold_inside_and_give_way_to_the_user_s(monkeypatch):
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    with libtpu.flags_set("v5e"):
        assert os.environ["LIBTPU_INIT_ARGS"] == libtpu.arguments("v5e") != ""
    assert "LIBTPU_INIT_ARGS" not in os.environ
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--mine=1")
    with libtpu.flags_set("v5e"):
        assert os.environ["LIBTPU_INIT_ARGS"] == "--mine=1"
    assert os.environ["LIBTPU_INIT_ARGS"] == "--mine=1"
