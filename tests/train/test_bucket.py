"""A training whose folder is in a bucket, killed and gone on with: real processes, a Cloud Storage on loopback."""

import signal

import numpy as np
import pytest

from melody_jax import storage
from melody_jax.bundle.part import flatten, load_part
from melody_jax.errors import StoppedError
from melody_jax.files import read_lines
from melody_jax.watch import goodput, report
from tests.train import processes, regression
from tests.train.processes import complete, finish, wait_until


def test_a_killed_run_ends_with_the_bits_of_a_local_one(gcs, gcs_folder, tmp_path):
    """And begins while the lock of the killed process still stands."""
    reference = processes.start("tests.train.regression", tmp_path, 0)
    process = processes.start("tests.train.regression", gcs_folder, 0.1)
    wait_until(process, lambda: complete(gcs_folder / "regression" / "checkpoints" / "14"))
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert any(name.endswith("regression/lock") and kept.data for name, kept in gcs.objects.items())
    assert finish(processes.start("tests.train.regression", gcs_folder, 0))[0] == finish(reference)[0] == 0

    again, local = load_part(gcs_folder / "regression"), load_part(tmp_path / "regression")
    assert again.id == local.id
    theirs, ours = flatten(local.params), flatten(again.params)
    assert all(np.array_equal(theirs[name], ours[name]) for name in theirs)
    losses, before = (
        {
            (line["step"], line["split"]): line["loss"]
            for line in read_lines(folder / "regression" / "metrics.jsonl")
            if "loss" in line
        }
        for folder in (gcs_folder, tmp_path)
    )
    del losses[15, "train"], before[15, "train"]  # the mean since step 10 there, since the checkpoint of step 14 here
    assert losses == before and (5, "train") in losses and (40, "eval") in losses
    names = {name.removeprefix("test/regression/").partition("/")[0] for name in gcs.objects}
    assert names == {"checkpoints", "curves.png", "goodput.jsonl", "lock", "metrics.jsonl", "part", "tensorboard"}
    assert gcs.objects["test/regression/lock"].data == b""
    assert len(goodput.read(gcs_folder / "regression")) == 2
    (told,) = report.read(gcs_folder)
    assert (told.state, told.step) == ("finished", 40)
    report.plot([told], gcs_folder, gcs_folder / report.PLOT)
    assert gcs.objects["test/report.png"].data.startswith(b"\x89PNG")
    assert sorted(int(folder.name) for folder in (gcs_folder / "regression" / "checkpoints").iterdir()) == [28, 35, 40]


def test_a_checkpoint_that_was_cut_short_is_passed_over(gcs, gcs_folder):
    regression.run(gcs_folder, total_steps=8, checkpoint_every=4)
    name = next(name for name in gcs.objects if name.startswith("test/regression/checkpoints/8/state/d/"))
    gcs.put(name, gcs.objects[name].data[:5])
    storage.remove_folder(gcs_folder / "regression" / "part")
    assert regression.run(gcs_folder, total_steps=8, checkpoint_every=4) is not None
    steps = [
        line["step"] for line in read_lines(gcs_folder / "regression" / "metrics.jsonl") if line["split"] == "train"
    ]
    assert steps[-1] == 8 and (gcs_folder / "regression" / "part" / "part.json").exists()


def test_a_run_that_is_stopped_leaves_its_whole_history(gcs_folder):
    with pytest.raises(StoppedError, match="the last good checkpoint is gs://"):
        regression.run(gcs_folder, stage=regression.RegressionStage(poison_step=18))
    steps = [
        line["step"] for line in read_lines(gcs_folder / "regression" / "metrics.jsonl") if line["split"] == "train"
    ]
    assert steps == [5, 10, 15]
