"""An interrupted run ends with the bits of an uninterrupted one: real processes, real signals."""

import json
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from melody_jax.bundle.part import flatten, load_part
from melody_jax.errors import UserError
from melody_jax.files import read_lines
from melody_jax.parallel.mesh import make_mesh
from melody_jax.train.arrays import ArrayBatches
from melody_jax.train.checkpoint import Checkpoints
from melody_jax.train.start import initial_state
from melody_jax.watch import goodput
from tests.buckets import refuse_directory_renames
from tests.train import processes, regression
from tests.train.processes import finish, logged, wait_until


def start(model_dir, delay):
    return processes.start("tests.train.regression", model_dir, delay)


def interrupt(model_dir, number, step):
    process = start(model_dir, delay=0.1)
    wait_until(process, lambda: logged(model_dir / "regression", step))
    process.send_signal(number)
    return finish(process)


def last_state(model_dir):
    """Every array of the newest checkpoint, and the data position."""
    stage = regression.RegressionStage()
    batches = ArrayBatches(regression.examples(), stage.batch_size, seed=3)
    checkpoints = Checkpoints(model_dir / "regression" / "checkpoints", keep=3)
    restored = checkpoints.restore(initial_state(stage, 0, make_mesh("", jax.devices()[:1])), batches)
    checkpoints.close()
    return jax.device_get(restored.state), next(batches)


def test_sigint_sigterm_and_sigkill_leave_no_trace_in_the_bits(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    reference = start(whole, delay=0)
    code, errors = interrupt(cut, signal.SIGINT, step=5)
    assert (code, "stopped by a signal at step" in errors and "the last good checkpoint is" in errors) == (130, True), (
        errors
    )
    assert interrupt(cut, signal.SIGKILL, step=15)[0] == -signal.SIGKILL
    assert interrupt(cut, signal.SIGTERM, step=25)[0] == 143
    assert not (cut / "regression" / "part").exists()
    assert finish(start(cut, delay=0))[0] == 0
    assert finish(reference)[0] == 0

    (state, batch), (state_cut, batch_cut) = last_state(whole), last_state(cut)
    assert int(state.step) == int(state_cut.step) == 40
    jax.tree.map(np.testing.assert_array_equal, state, state_cut)
    jax.tree.map(np.testing.assert_array_equal, batch, batch_cut)
    part, part_cut = (load_part(folder / "regression" / "part") for folder in (whole, cut))
    assert part.id == part_cut.id
    assert set(flatten(part.params)) >= {"inner/kernel", "outer/bias", "mean", "calibration"}
    # the curves have no seam: every logged step once, in order
    steps = [r["step"] for r in read_lines(cut / "regression" / "metrics.jsonl") if r["split"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == 40
    # and the clock knows of all four processes, and of the steps that the killed one had taken for nothing
    processes = goodput.read(cut / "regression")
    assert len(processes) == 4 and processes[1]["step"] > processes[2]["first"] > processes[1]["first"]
    assert goodput.spent(processes)["redone"] > 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    regression.run(folder, total_steps=8, checkpoint_every=4, keep=2)
    return folder / "regression"


def restore(folder):
    stage = regression.RegressionStage()
    batches = ArrayBatches(regression.examples(), stage.batch_size, seed=3)
    checkpoints = Checkpoints(folder, keep=2)
    try:
        return checkpoints.restore(initial_state(stage, 0, make_mesh()), batches)
    finally:
        checkpoints.close()


def test_a_checkpoint_with_broken_contents_gives_way_too(finished, tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    shutil.copytree(finished / "checkpoints", folder)
    record = folder / "8" / "record" / "metadata"
    record.write_bytes(b"?" * record.stat().st_size)
    assert int(restore(folder).state.step) == 4
    assert "8 cannot be read, trying the one before" in caplog.text and "bytes" not in caplog.text


def damage(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("pattern", ["batches/0/*.json", "record/metadata", "state/manifest.ocdbt", "state/d/*"])
def test_a_checkpoint_cut_short_gives_way_to_the_one_before(finished, tmp_path, pattern, caplog):
    folder = tmp_path / "checkpoints"
    shutil.copytree(finished / "checkpoints", folder)
    assert int(restore(folder).state.step) == 8
    damage(next((folder / "8").glob(pattern)))
    restored = restore(folder)
    assert int(restored.state.step) == 4
    assert "8 cannot be read, trying the one before" in caplog.text
    assert re.search(r"has \d+ of \d+ bytes", caplog.text)
    assert not (folder / "8").exists()
    damage(next((folder / "4").glob(pattern)))
    with pytest.raises(UserError, match="none of the checkpoints .* can be read"):
        restore(folder)


def test_checkpoints_need_no_directory_renames(tmp_path, monkeypatch):
    """As on a mounted bucket: a run saves, is cut short in the middle of a checkpoint, goes on, and writes its part."""
    asked, folder = refuse_directory_renames(monkeypatch), tmp_path / "regression"
    regression.run(tmp_path, total_steps=4, checkpoint_every=4, keep=2)
    assert asked and not [source for source, _ in asked if source.startswith(f"{folder}/checkpoints")]
    assert load_part(folder).name == "regression"
    shutil.copytree(folder / "checkpoints" / "4", folder / "checkpoints" / "8")
    (folder / "checkpoints" / "8" / "commit_success.txt").unlink()  # written last
    assert int(restore(folder / "checkpoints").state.step) == 4
    deadline = time.monotonic() + 60
    while (folder / "checkpoints" / "8").exists():  # removed in the background
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_checkpoints_of_earlier_versions_are_kept(finished, tmp_path):
    """They were complete by their name, and have no file that says so."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(finished / "checkpoints", folder)
    for commit in folder.rglob("commit_success.txt"):
        commit.unlink()
    for file in folder.rglob("sizes.json"):
        sizes = json.loads(file.read_text())
        file.write_text(json.dumps({name: size for name, size in sizes.items() if "commit_success" not in name}))
    assert int(restore(folder).state.step) == 8


def test_a_run_goes_on_with_other_data_where_it_is_told_to(finished, tmp_path, monkeypatch):
    """Its checkpoint's position means nothing there: the weights go on, the data begins anew, and is counted from then on."""

    class Changed(regression.SlowBatches):
        def restore(self, directory):
            raise UserError("the checkpoint's data is a, but this run's is b")

    shutil.copytree(finished, tmp_path / "regression")
    with monkeypatch.context() as patch:
        patch.setattr(regression, "SlowBatches", Changed)
        with pytest.raises(UserError, match="data is a, but this run's is b"):
            regression.run(tmp_path, total_steps=12, checkpoint_every=4)
        part = regression.run(tmp_path, total_steps=12, checkpoint_every=4, restart_data=True)
    assert part.training["steps"] == 12
    steps = [r["step"] for r in read_lines(tmp_path / "regression" / "metrics.jsonl") if r["split"] == "train"]
    assert steps == [5, 8, 10, 12]
    _, batch = last_state(tmp_path)  # of step 12: four batches and two that calibrated it after its checkpoint
    fifth = ArrayBatches(regression.examples(), 8, seed=3)
    for _ in range(4):
        next(fifth)
    np.testing.assert_array_equal(batch["x"], next(fifth)["x"])
