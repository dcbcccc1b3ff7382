"""A training whose folder is in a bucket, against a Cloud Storage on loopback."""

import numpy as np
import pytest

from melody_jax import storage
from melody_jax.bundle.part import flatten, load_part
from melody_jax.errors import StoppedError
from melody_jax.files import read_lines
from melody_jax.watch import goodput, report
from tests.train import regression


def test_a_run_leaves_in_a_bucket_what_it_leaves_on_a_disk(gcs, gcs_folder, tmp_path):
    """It is stopped in the middle and goes on; tests/cli/test_bucket.py kills one."""
    local = regression.run(tmp_path)
    with pytest.raises(StoppedError, match="the last good checkpoint is gs://.*/14"):
        regression.run(gcs_folder, stage=regression.RegressionStage(poison_step=18))
    assert regression.run(gcs_folder).id == local.id

    again = load_part(gcs_folder / "regression")
    theirs, ours = flatten(local.params), flatten(again.params)
    assert again.id == local.id and all(np.array_equal(theirs[name], ours[name]) for name in theirs)
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
    assert gcs.objects["test/regression/lock"].data == b"" and len(goodput.read(gcs_folder / "regression")) == 2
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
