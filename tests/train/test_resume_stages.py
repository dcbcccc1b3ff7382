"""Every stage, killed in a process of its own and started again, ends with the bits of an uninterrupted run."""

import os
import signal

import numpy as np
import orbax.checkpoint as ocp
import pytest

from melody_jax.bundle.part import load_part
from melody_jax.files import read_lines
from tests.train import processes, six_stages
from tests.train.processes import finish, logged, wait_until
from tests.train.six_stages import SAVE_EVERY, SEED_STEP, TOTAL

# What must be among the arrays that are compared.
ONE_OPTIMISER = ("step", "key", "params.", "opt_state.", "ema.")
CONTENTS = {
    "autoencoder": (
        *("step", "key", "params.generator.", "params.discriminator.", "ema.", "extra.mean_norm"),
        *(f"opt_state.{player}.1.0.{moment}." for player in ("generator", "discriminator") for moment in ("mu", "nu")),
    ),
    "mulan": (*ONE_OPTIMISER, "params.text.", "params.music."),
    "semantic": (*ONE_OPTIMISER, "measured.conformer.layers.convolution.depthwise_norm.mean"),
    "codes": ("step", "key", "params.kmeans", "params.rvq", "opt_state.frames", "opt_state.clips", "opt_state.rvq."),
    "lm": (*ONE_OPTIMISER, "opt_state.acc_grads", "opt_state.mini_step"),
    "dpd": (*ONE_OPTIMISER, "opt_state.1.inner_states.muon.", "measured.linear.told_axes", "measured.linear.own"),
}


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    six_stages.save_parents(folder)
    return folder


def start(name, model_dir, parents, hold=1000):
    # The uninterrupted run compiles and the others read its programs.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("MELODY_TEST_CACHE", ".cache/jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    return processes.start("tests.train.six_stages", name, model_dir, parents, hold, **cache)


def kill(number, name, model_dir, parents, step):
    """Ends a run after `step`, when the last checkpoint before has been written."""
    folder, process = model_dir / name, start(name, model_dir, parents, hold=step)
    saved = folder / "checkpoints" / str(step - step % SAVE_EVERY)
    wait_until(process, lambda: logged(folder, step) and processes.complete(saved))
    process.send_signal(number)
    return finish(process)[0]


def last_state(folder):
    """Name -> array of the last checkpoint, as it lies on disk."""
    with ocp.CheckpointManager((folder / "checkpoints").absolute()) as manager:
        assert manager.latest_step() == TOTAL
        return manager.restore(TOTAL, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]


def next_batch(name, folder, parents):
    batches = six_stages.make_batches(six_stages.make_stage(name, parents))
    batches.restore(folder / "checkpoints" / str(TOTAL) / "batches" / "0")
    return next(batches)


# the loop is one for all; of what stages add, codes has most: memories, and batches in order
@pytest.mark.parametrize(
    "name", [name if name == "codes" else pytest.param(name, marks=pytest.mark.slow) for name in CONTENTS]
)
def test_a_killed_run_goes_on_with_the_same_bits(name, parents, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert finish(start(name, whole, parents))[0] == 0
    assert kill(signal.SIGKILL, name, cut, parents, step=7) == -signal.SIGKILL
    before = read_lines(cut / name / "metrics.jsonl")[:SAVE_EVERY]
    if name == "autoencoder":  # the game had begun
        assert before[-1]["discriminator"] > 0 and before[-1]["features"] > 0
    if name == "codes":  # killed once while the memories fill, once while both codebooks learn
        assert before[-1]["kmeans_used"] == 0
        assert kill(signal.SIGTERM, name, cut, parents, step=SEED_STEP + 2) == 143
        assert read_lines(cut / name / "metrics.jsonl")[-1]["kmeans_used"] > 0
    assert not (cut / name / "part").exists()
    assert finish(start(name, cut, parents))[0] == 0
    lines = read_lines(cut / name / "metrics.jsonl")
    assert lines[:SAVE_EVERY] == before  # it went on from the checkpoint and did not begin anew
    assert [line["step"] for line in lines] == list(range(1, TOTAL + 1))

    state, state_cut = last_state(whole / name), last_state(cut / name)
    assert all(any(key.startswith(part) for key in state) for part in CONTENTS[name]), sorted(state)
    assert state.keys() == state_cut.keys()
    for key in state:
        np.testing.assert_array_equal(state[key], state_cut[key], err_msg=key)
    batch, batch_cut = (next_batch(name, folder / name, parents) for folder in (whole, cut))
    for key in batch:
        np.testing.assert_array_equal(batch[key], batch_cut[key], err_msg=key)
    assert load_part(whole / name).id == load_part(cut / name).id
