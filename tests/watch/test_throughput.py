"""Rates of a run against what can be worked out by hand."""

import dataclasses
import logging
import types

import jax
import pytest
from flax import linen as nn

from melody_jax.files import read_lines
from melody_jax.watch import chips, flops, throughput
from melody_jax.watch.goodput import Interval
from tests.stages import test_autoencoder, test_dpd, test_lm, test_mulan, test_semantic
from tests.train import regression

PRODUCTS = 2 * 3 * (2 * 8 * 8 * 16)
"""FLOPs of a step of 8 rows: two layers, each once forwards and twice backwards (`nn/dense.matmul`)."""


@pytest.fixture
def known_chip(monkeypatch):
    monkeypatch.setitem(chips.DEVICE_KINDS, "cpu", "v4")


def _records(folder, **changes):
    regression.run(folder, total_steps=10, **changes)
    return [r for r in read_lines(folder / "regression" / "metrics.jsonl") if r["split"] == "train"]


def test_the_log_has_rates_that_belong_together(tmp_path, known_chip):
    """Of 8 rows of 10 s; each step waits 20 ms for its batch, by `SlowBatches`."""
    for record in _records(tmp_path, delay=0.02):
        seconds = record["seconds_per_step"]
        assert record["mfu"] * seconds * jax.device_count() * 275e12 == pytest.approx(PRODUCTS)
        assert record["audio_seconds_per_second"] * seconds == pytest.approx(80)
        assert 0.02 / seconds <= record["input_wait"] < 1
        assert 0 < record["goodput"] < 1 and "tokens_per_second" not in record
    events = b"".join(path.read_bytes() for path in (tmp_path / "regression" / "tensorboard").iterdir())
    assert all(f"train/{name}".encode() in events for name in ("mfu", "seconds_per_step", "input_wait", "goodput"))


def test_no_mfu_on_unknown_devices_and_of_steps_that_cannot_be_counted(tmp_path, known_chip, monkeypatch, caplog):
    def uncountable(*_):
        raise ValueError("a while loop")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(throughput.flops, "count", uncountable)
        assert "mfu" not in _records(tmp_path / "uncountable")[-1]
    assert "regression: no MFU, the step's FLOPs cannot be counted (a while loop)" in caplog.text
    monkeypatch.delitem(chips.DEVICE_KINDS, "cpu")
    assert "mfu" not in _records(tmp_path / "unknown")[-1]


def test_the_discriminators_count_from_the_step_on_at_which_they_play(known_chip):
    stage = dataclasses.replace(test_autoencoder.STAGE, adversarial_start=100)
    state = nn.unbox(jax.eval_shape(stage.init, jax.random.PRNGKey(0)))
    rates = throughput.Throughput(stage, state, jax.devices())
    products = [flops.count(stage.phase(step).train_step, state, stage.batch_shapes()) for step in (0, 100)]
    assert products[1] > 1.1 * products[0]

    def counted(step, steps=10):
        return rates.rates(Interval(steps, 2.0, 0.1, 0.5), step)["mfu"] * 2.0 * jax.device_count() * 275e12

    assert counted(100) == pytest.approx(10 * products[0])
    assert counted(110) == pytest.approx(10 * products[1])
    assert counted(104) == pytest.approx(6 * products[0] + 4 * products[1])


def test_memory_is_that_of_the_fullest_device(monkeypatch):
    stats = [{"peak_bytes_in_use": 5}, {"peak_bytes_in_use": 7}, None]
    devices = [types.SimpleNamespace(memory_stats=lambda one=one: one, device_kind="cpu") for one in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    stage = regression.RegressionStage()
    state = nn.unbox(jax.eval_shape(stage.init, jax.random.PRNGKey(0)))
    rates = throughput.Throughput(stage, state, devices)
    assert rates.rates(Interval(0, 0.0, 0.0, 0.5), 0) == {"goodput": 0.5, "memory_bytes": 7.0}


def test_every_stage_knows_what_a_row_holds():
    """A row may be a segment, a crop, a clip of its own length or a window of tokens instead of a clip."""
    clip = test_lm.GEOMETRY.clip_seconds
    windowed = dataclasses.replace(test_lm.STAGE, config=dataclasses.replace(test_lm.STAGE.config, window=5))
    assert (test_lm.STAGE.row_seconds, test_lm.STAGE.row_tokens) == (pytest.approx(clip), 1 + 3 + 10)
    assert (windowed.row_seconds, windowed.row_tokens) == (pytest.approx(clip / 2), 1 + 3 + 5)
    segment = test_autoencoder.STAGE
    assert segment.row_seconds == segment.batch_shapes()["audio"].shape[1] / segment.geometry.sample_rate
    assert dataclasses.replace(test_semantic.STAGE, crop_seconds=0.4).row_seconds == 0.4
    assert dataclasses.replace(test_dpd.STAGE, clip_seconds=0.2).row_seconds == 0.2
    for stage in (test_semantic.STAGE, dataclasses.replace(test_dpd.STAGE, clip_seconds=0.0), test_mulan.STAGE):
        assert stage.row_seconds == stage.geometry.clip_seconds and not stage.row_tokens
