"""The loop's contracts: numbers do not depend on devices, trouble stops it early and clearly, folders are guarded."""

import dataclasses
import errno
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.bundle.part import flatten, load_part
from melody_jax.errors import FAILED, STOPPED, StoppedError, UserError, exit_code_of
from melody_jax.files import read_lines
from melody_jax.geometry import Geometry
from melody_jax.train import loop
from melody_jax.train.arrays import ArrayBatches
from melody_jax.train.end import sole_user
from melody_jax.train.optim import OptimConfig
from melody_jax.train.stage import Data
from tests.train import regression
from tests.train.regression import RegressionConfig, RegressionStage

MESHES = ["data=8", "fsdp=8", "data=2,tensor=4", "replica=2,data=1,fsdp=2,tensor=2"]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return _trained(tmp_path_factory.mktemp("one"), "", devices=1)


def _trained(folder, mesh, devices=8, stage=None):
    everything = jax.devices
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *args: everything(*args)[:devices])
        part = regression.run(folder, mesh=mesh or "data=-1", total_steps=20, checkpoint_every=20, stage=stage)
    losses = [r["loss"] for r in read_lines(folder / "regression" / "metrics.jsonl") if r["split"] == "train"]
    return flatten(part.params), losses


@pytest.mark.parametrize("mesh", MESHES)
def test_eight_devices_give_the_numbers_of_one(one_device, tmp_path, mesh):
    params, losses = _trained(tmp_path, mesh)
    # float32 sums of a few hundred terms in another order, over 20 Adam steps of 1e-2
    np.testing.assert_allclose(losses, one_device[1], rtol=1e-5)
    for name, expected in one_device[0].items():
        np.testing.assert_allclose(params[name], expected, rtol=1e-4, atol=2e-5, err_msg=name)


def test_it_learns_and_records(tmp_path):
    part = regression.run(tmp_path, data="rows")
    folder = tmp_path / "regression"
    records = read_lines(folder / "metrics.jsonl")
    train = [r for r in records if r["split"] == "train"]
    assert train[-1]["loss"] < 0.5 * train[0]["loss"]
    assert [r["step"] for r in records if r["split"] == "eval"] == [10, 20, 30, 40]
    assert {"loss", "gradient_norm", "learning_rate", "steps_per_second"} <= set(train[0])
    assert (folder / "curves.png").stat().st_size > 10_000
    events = b"".join(path.read_bytes() for path in (folder / "tensorboard").iterdir())
    assert b"train/loss" in events and b"eval/loss" in events
    assert sorted(int(path.name) for path in (folder / "checkpoints").iterdir()) == [28, 35, 40]
    assert part.training["steps"] == 40 and part.training["data"] == "rows"
    assert load_part(folder / "part").id == part.id


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    # the poisoned step is one that would have been saved
    with pytest.raises(StoppedError, match="regression: step 21: metric loss is nan") as stopped:
        regression.run(tmp_path, stage=RegressionStage(poison_step=21))
    assert stopped.value.exit_code == STOPPED
    assert sorted(int(path.name) for path in (tmp_path / "regression" / "checkpoints").iterdir()) == [7, 14]
    assert not (tmp_path / "regression" / "part").exists()


@pytest.mark.parametrize("log_every", [1000, 11])
def test_a_full_disk_stops_with_the_last_good_checkpoint_intact(tmp_path, log_every):
    """A limit on file sizes stands in for the full disk: it is as real to every writer, of checkpoints and of logs."""
    program = (
        "import pathlib, resource, signal, sys, time\n"
        "saved = pathlib.Path(sys.argv[1]) / 'regression' / 'checkpoints' / '7'\n"
        "from tests.train import regression as r\n"
        "class Batches(r.SlowBatches):\n"
        "    def __next__(self):\n"
        "        if self._given == 10:\n"
        "            while not (saved / 'commit_success.txt').exists():  # it is written in the background\n"
        "                time.sleep(0.01)\n"
        "            resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))\n"
        "        return super().__next__()\n"
        "r.SlowBatches = Batches\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n"
        "    r.run(sys.argv[1], log_every=int(sys.argv[2]))\n"
        "except r.loop.StoppedError as stopped:\n"
        "    print(stopped, file=sys.stderr)\n"
        "    sys.exit(stopped.exit_code)\n"
    )
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(log_every)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == STOPPED
    assert "File too large" in done.stderr.splitlines()[-1] or "could not be written" in done.stderr
    assert re.search("regression: .*; the last good checkpoint is .*/checkpoints/7$", done.stderr, re.MULTILINE)
    assert regression.run(tmp_path, total_steps=14).training["steps"] == 14


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "0/metrics.jsonl"), STOPPED),
        (ValueError("RESOURCE_EXHAUSTED: Error writing 'd/0.0': OS error 28: No space left on device"), STOPPED),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "0/metrics.jsonl"), STOPPED),
        (ValueError("UNKNOWN: Error writing 'd/0.0': OS error 30: Read-only file system"), STOPPED),
        (OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)), FAILED),
        (StoppedError("stopped by a signal", 143), 143),
    ],
    ids=["full", "quoted", "refused", "read-only", "network", "signal"],
)
def test_exit_codes_tell_what_a_restart_can_mend(error, code):
    assert exit_code_of(error) == code


def test_a_folder_of_another_run_is_refused(tmp_path):
    regression.run(tmp_path, total_steps=2)
    wider = RegressionStage(config=RegressionConfig(width=32))
    with pytest.raises(UserError, match=r"another configuration: .*inner.* is float32\[16\] there and float32\[32\]"):
        regression.run(tmp_path, total_steps=4, stage=wider)
    moved = RegressionStage(geometry=dataclasses.replace(Geometry(), hop=480))
    with pytest.raises(UserError, match="begun with another hop"):
        regression.run(tmp_path, total_steps=4, stage=moved)
    with sole_user(tmp_path / "regression"), pytest.raises(UserError, match="another process is training"):
        regression.run(tmp_path, total_steps=4)


def test_a_batch_of_the_wrong_shape_or_size_is_named(tmp_path):
    with pytest.raises(UserError, match="a global batch of 6 does not divide over data=8"):
        regression.run(tmp_path, stage=RegressionStage(batch_size=6))

    class Narrow(RegressionStage):
        def batch_shapes(self):
            return {"x": jax.ShapeDtypeStruct((8, 9), np.float32)}

    with pytest.raises(UserError, match=r"batch: x is float32\[8, 8\], the stage wants float32\[8, 9\]"):
        regression.run(tmp_path, stage=Narrow())


def test_more_steps_continue_a_finished_run(tmp_path):
    short = RegressionStage(optim=OptimConfig(schedule="constant", warmup_steps=0, learning_rate=1e-2))
    regression.run(tmp_path / "a", total_steps=10, stage=short)
    longer = regression.run(tmp_path / "a", total_steps=20, stage=short)
    assert longer.id == regression.run(tmp_path / "b", total_steps=20, stage=short).id


@dataclasses.dataclass(frozen=True)
class Skipping(RegressionStage):
    """Skips every step whose batch holds a NaN, as the autoencoder does, and counts."""

    rollback_after: int = 4

    def init(self, key):
        state = super().init(key)
        return state.replace(extra={**state.extra, "row": jnp.zeros((), jnp.int32)})

    def train_step(self, state, batch):
        good = jnp.all(jnp.isfinite(batch["x"]))
        new, metrics = super().train_step(state.replace(extra={"mean": state.extra["mean"]}), batch)
        row = jnp.where(good, 0, state.extra["row"] + 1)
        kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new.params, state.params)
        averaged = jax.tree.map(lambda a, b: jnp.where(good, a, b), new.ema, state.ema)
        optimizer = jax.tree.map(lambda a, b: jnp.where(good, a, b), new.opt_state, state.opt_state)
        mean = jnp.where(good, new.extra["mean"], state.extra["mean"])
        new = new.replace(params=kept, ema=averaged, opt_state=optimizer, extra={"mean": mean, "row": row})
        return new, {**metrics, "skipped_in_a_row": row.astype(jnp.float32)}


class Broken(ArrayBatches):
    """The batches of some numbers (counted from 1) hold NaNs."""

    def __init__(self, *args, numbers, **kwargs):
        super().__init__(*args, **kwargs)
        self._numbers = numbers

    def __next__(self):
        batch = super().__next__()
        return {**batch, "x": batch["x"] * np.float32(np.nan)} if self._given in self._numbers else batch


def _with_broken(folder, numbers, **changes):
    settings = {"total_steps": 30, "checkpoint_every": 5, "eval_every": 30, "log_every": 1} | changes
    data = Data(
        Broken(regression.examples(), 8, seed=3, numbers=numbers),
        ArrayBatches(regression.examples(seed=1), 8, shuffle=False),
    )
    return loop.train(Skipping(), data, loop.Run(model_dir=str(folder), **settings))


def test_a_few_bad_steps_are_skipped(tmp_path):
    part = _with_broken(tmp_path, {7, 8, 20})
    records = [r for r in read_lines(tmp_path / "regression" / "metrics.jsonl") if r["split"] == "train"]
    assert [r["step"] for r in records] == list(range(1, 31))
    assert [r["step"] for r in records if "loss" not in r] == [7, 8, 20]
    assert "rollbacks" not in part.training
    assert all(np.isfinite(x).all() for x in flatten(part.params).values())


def test_many_bad_steps_roll_back_to_the_last_good_checkpoint(tmp_path, caplog):
    """Batches 13 to 18 are bad: the checkpoint of step 15 is made in the middle of them, that of step 10 is good."""
    part = _with_broken(tmp_path, set(range(13, 19)))
    assert part.training["rollbacks"] == [[16, 10]] and part.training["steps"] == 30
    assert "4 steps in a row were skipped; back to the checkpoint of step 10" in caplog.text
    records = read_lines(tmp_path / "regression" / "metrics.jsonl")
    train = [r for r in records if r["split"] == "train"]
    assert [r["step"] for r in train] == list(range(1, 31))
    assert [r["step"] for r in train if "loss" not in r] == [11, 12]  # batches 17 and 18 follow
    assert [(r["step"], r["from_step"]) for r in records if r["split"] == "rollback"] == [(10, 16)]


def test_a_run_that_cannot_go_on_stops(tmp_path):
    with pytest.raises(StoppedError, match="as after 3 rollbacks before.*the last good checkpoint is .*/10"):
        _with_broken(tmp_path, set(range(13, 60)))
    with pytest.raises(StoppedError, match="before the first good checkpoint"):
        _with_broken(tmp_path / "none", set(range(1, 60)))
