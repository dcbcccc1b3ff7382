"""The doctor's checks one by one: a healthy case, and each planted fault is found and named."""

import dataclasses
import itertools
import shutil
import time
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from melody_jax.bundle.part import save_part
from melody_jax.config import to_dict
from melody_jax.geometry import Geometry
from melody_jax.operations.doctor import disk, inputs, kernels, lineage, one_batch
from melody_jax.parallel import activations
from melody_jax.parallel.mesh import make_mesh
from melody_jax.train.arrays import ArrayBatches
from melody_jax.train.checkpoint import Checkpoints, Restored
from melody_jax.train.optim import OptimConfig
from melody_jax.train.stage import Stage
from melody_jax.train.start import initial_state
from tests.train import regression, six_stages
from tests.train.regression import RegressionConfig, RegressionStage


def levels(findings):
    """Check -> level."""
    return {finding.check: finding.level for finding in findings}


def batches(seed=0):
    return ArrayBatches(regression.examples(), 8, seed=seed)


# Order and values of batches.


SEEDS = itertools.count()


class Forgetful(ArrayBatches):
    def restore(self, directory):
        self._given = 0


@pytest.mark.parametrize(
    ("opened", "order", "position"),
    [
        (batches, "ok", "ok"),
        (lambda: batches(next(SEEDS)), "failure", "failure"),
        (lambda: Forgetful(regression.examples(), 8), "ok", "failure"),
    ],
)
def test_order_and_position(opened, order, position):
    findings, taken, _ = inputs.check_order(opened, 4)
    assert levels(findings) == {"data order": order, "data position": position} and len(taken) == 4


def test_shapes_are_those_of_a_host():
    wanted = {"x": jax.ShapeDtypeStruct((8, 3), np.float32), "y": jax.ShapeDtypeStruct((8, 3), np.int32)}
    rows = np.zeros((4, 3), np.float32)
    (x, y) = inputs.check_shapes("batch", {"x": rows, "y": rows}, wanted, shards=2)
    assert (x.level, y.level) == ("ok", "failure") and "float32[4, 3], the stage wants int32[4, 3]" in y.measured
    (x, y) = inputs.check_shapes("batch", {"x": rows}, wanted)
    assert (x.level, y.level) == ("failure", "failure") and "absent" in y.measured


def test_numbers_that_are_not_finite_and_rows_that_repeat():
    rows = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    assert inputs.check_finite("batch", [{"x": rows}])[0].level == inputs.check_rows([{"x": rows}]).level == "ok"
    poisoned = rows.copy()
    poisoned[2, 1] = np.nan
    (finite,) = inputs.check_finite("batch", [{"x": rows}, {"x": poisoned}])
    assert finite.level == "failure" and finite.measured.startswith("1 of 16 rows")
    assert inputs.check_rows([{"x": rows}, {"x": np.repeat(rows[:1], 8, axis=0)}]).level == "failure"
    assert inputs.check_rows([{"x": np.repeat(rows[:4], 2, axis=0)}]).level == "warning"


def test_silence_and_clipping():
    tone = 0.5 * np.sin(np.arange(8 * 800).reshape(8, 800)).astype(np.float32)
    assert levels(inputs.check_audio(tone)) == {"audio silence": "ok", "audio clipping": "ok"}
    assert levels(inputs.check_audio(5e-4 * tone))["audio silence"] == "failure"
    one = np.concatenate([tone[:7], 5e-4 * tone[:1]])
    assert levels(inputs.check_audio(one))["audio silence"] == "warning"
    assert levels(inputs.check_audio(np.clip(4 * tone, -1, 1)))["audio clipping"] == "warning"


def test_a_collapsed_codebook():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 64, (32, 100))
    healthy = inputs.check_codes("semantic", codes, 64)
    # 3,200 uniform tokens of 64: each entry is drawn, and the perplexity is nearly 64
    assert (
        healthy.level == "ok" and healthy.measured.startswith("100.0% of 64") and "perplexity 63." in healthy.measured
    )
    assert inputs.check_codes("semantic", np.zeros_like(codes), 64).level == "failure"
    assert (
        inputs.check_codes("semantic", np.where(rng.uniform(size=codes.shape) < 0.6, 3, codes), 64).level == "warning"
    )
    assert inputs.check_codes("semantic", codes, 60).level == "failure"  # entries that do not exist
    levelled = codes[:, :12].copy()
    assert inputs.check_codes("mulan", levelled, 64).level == "ok"
    levelled[:, 4] = 7
    collapsed = inputs.check_codes("mulan", levelled, 64)
    assert collapsed.level == "failure" and "level 5 of 12" in collapsed.measured


@pytest.mark.parametrize(
    ("deviation", "level", "bounds"),
    [(0.3, "ok", "ok"), (0.1, "warning", "ok"), (0.0, "failure", "ok"), (0.8, "warning", "warning")],  # fmt: skip
)
def test_latents_against_their_deviation(deviation, level, bounds):
    latents = deviation * np.random.default_rng(0).standard_normal((8, 100, 4)).astype(np.float32)
    found = inputs.check_latents(np.clip(latents, -1, 1), data_std=0.3)
    assert levels(found) == {"latents deviation": level, "latents at the bounds": bounds}
    assert ("data_std=0.1" in found[0].advice) == (deviation == 0.1)


def test_a_slow_input_makes_the_step_wait():
    def slow():
        while True:
            time.sleep(0.02)
            yield next(batches())

    rate = inputs.measure_rate(slow(), seconds=0.2)
    assert 20 < rate < 50
    batch = next(batches())
    assert inputs.check_rate(rate, 1.0, batch, Geometry()).level == "ok"
    waiting = inputs.check_rate(25.0, 0.01, batch, Geometry())  # 40 ms for a batch, 10 ms for a step
    assert waiting.level == "warning" and "waits 75% of its time" in waiting.measured


# Lineage.


@pytest.fixture
def parts(tmp_path):
    """A folder with a codes part and its parents."""
    weights = {"w": np.arange(4, dtype=np.float32)}
    parents = {
        name: save_part(tmp_path / name, name, weights, {}, Geometry(), {}, {}).id for name in ("mulan", "semantic")
    }
    save_part(tmp_path / "codes", "codes", weights, {}, Geometry(), parents, {})
    return tmp_path


NAMES = ("mulan", "semantic", "codes")


def test_parts_that_belong_together(parts):
    findings, read = lineage.check_parts(parts, NAMES, Geometry())
    assert set(levels(findings).values()) == {"ok"} and set(read) == set(NAMES) and len(findings) == 4


def test_missing_damaged_and_foreign_parts(parts):
    file = parts / "semantic" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    shutil.rmtree(parts / "codes")
    found = levels(lineage.check_parts(parts, NAMES, Geometry())[0])
    assert found == {"part mulan": "ok", "part semantic": "failure", "part codes": "failure"}
    (other, *_), _ = lineage.check_parts(parts, ("mulan",), dataclasses.replace(Geometry(), hop=480))
    assert other.level == "failure" and "hop" in other.measured


def test_a_part_of_another_parent(parts):
    save_part(parts / "mulan", "mulan", {"w": np.ones(4, np.float32)}, {}, Geometry(), {}, {})
    assert levels(lineage.check_parts(parts, NAMES, Geometry())[0])["parts together"] == "failure"


def test_tokens_of_another_parent_another_audio_another_geometry():
    facts = {"lineage": {"codes": "a", "mulan": "b"}, "source": "s", "geometry": to_dict(Geometry())}
    ids = {"codes": "a", "mulan": "b"}
    of = ("tokens of these parts", "tokens of this audio", "tokens of this geometry")

    def found(parts=ids, source="s", **changes):
        return levels(lineage.check_tokens(facts, parts, source, Geometry(**changes)))

    assert found() == dict.fromkeys(of, "ok")
    assert found(parts={"codes": "a", "mulan": "c"}) == dict.fromkeys(of, "ok") | {of[0]: "failure"}
    assert found(source="t") == dict.fromkeys(of, "ok") | {of[1]: "failure"}
    assert found(semantic_codes=8) == dict.fromkeys(of, "ok") | {of[2]: "failure"}


def test_splits():
    found = [
        lineage.check_splits("id", counts, 8)[0].level
        for counts in ({"train": 9, "validation": 1}, {"train": 7, "validation": 1}, {"train": 9}, {"validation": 9})
    ]
    assert found == ["ok", "warning", "warning", "failure"]
    assert lineage.check_sample_rate(48_000, Geometry()).level == "failure"


# Steps.


@dataclasses.dataclass(frozen=True)
class Frozen(RegressionStage):
    """Half of its parameters get no gradient."""

    name: ClassVar[str] = "frozen"

    def _loss(self, params, batch, noise):
        return super()._loss({**params, "inner": jax.lax.stop_gradient(params["inner"])}, batch, noise)


@dataclasses.dataclass(frozen=True)
class Unread(Frozen):
    """Some data gives half of its parameters no gradient, and it says so."""

    unread: ClassVar[dict[str, str]] = {"inner": "a line without a bend"}


@dataclasses.dataclass(frozen=True)
class Averaging(Frozen):
    """The parameters without a gradient are running means, kept by the step itself."""

    name: ClassVar[str] = "averaging"

    def train_step(self, state, batch):
        after, metrics = super().train_step(state, batch)
        inner = jax.tree.map(lambda w: 0.9 * w + 0.1, state.params["inner"])
        return after.replace(params={**after.params, "inner": inner}), metrics


@dataclasses.dataclass(frozen=True)
class Lopsided(RegressionStage):
    """One layer's gradient is a million times too small."""

    name: ClassVar[str] = "lopsided"

    def _loss(self, params, batch, noise):
        inner = jax.tree.map(lambda w: 1e-6 * w + jax.lax.stop_gradient((1 - 1e-6) * w), params["inner"])
        return super()._loss({**params, "inner": inner}, batch, noise)


def rehearsed(stage: Stage, batch=None, steps=30):
    grid = make_mesh("data=-1")
    stage = one_batch.shortened(stage, steps)
    return one_batch.take_steps(stage, initial_state(stage, 0, grid), grid, batch or next(batches()), steps)


@dataclasses.dataclass(frozen=True)
class WithKernel(RegressionStage):
    """What its kernel computes is so many times too large."""

    name: ClassVar[str] = "with_kernel"
    factor: float = 1.0

    def _loss(self, params, batch, noise):
        loss = super()._loss(params, batch, noise)
        return self._times_factor(jnp.ones(1))[0] * loss if activations.kernels_run() else loss

    def _times_factor(self, x):
        def kernel(x, y):
            y[...] = self.factor * x[...]

        return pl.pallas_call(kernel, jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)


@pytest.mark.parametrize(
    ("factor", "level"), [(1.001, "ok"), (1.05, "warning"), (2.0, "failure"), (float("nan"), "failure")]
)
def test_kernels_are_held_against_plain_code_on_tpus_only(factor, level, monkeypatch):
    grid, stage = make_mesh("data=-1"), WithKernel(factor=factor)
    state, batch = initial_state(stage, 0, grid), next(batches())
    assert kernels.check_kernels(stage, state, grid, batch) == []
    monkeypatch.setattr(activations, "on_tpu", lambda: not activations._OFF_TPU.get())
    assert levels(kernels.check_kernels(stage, state, grid, batch)) == {"kernels": level}
    assert kernels.check_kernels(RegressionStage(), state, grid, batch) == [], "it has none to compare"


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"optimizer": "muon"}])
def test_a_healthy_stage(changes):
    optim = OptimConfig(learning_rate=1e-2, warmup_steps=1000, total_steps=2000, **changes)
    shown = rehearsed(RegressionStage(optim=optim))
    assert set(levels(shown.findings).values()) == {"ok"}, [str(finding) for finding in shown.findings]
    assert shown.step_seconds > 0
    assert set(one_batch.gradients(shown.state)) == {
        (layer, name) for layer in ("inner", "outer") for name in ("kernel", "bias")
    }


def test_the_layers_gradients_are_the_gradients():
    stage = one_batch.shortened(RegressionStage(optim=OptimConfig(clip_norm=0.5, warmup_steps=1)), 30)
    grid, batch = make_mesh("data=-1"), next(batches())
    before = initial_state(stage, 0, grid)
    noise = 0.1 * jax.random.normal(before.step_key, batch["x"].shape)
    expected = jax.grad(stage._loss)(before.params, batch, noise)
    state, metrics = jax.jit(stage.train_step)(before, batch)
    listed = one_batch._check_gradients(state, float(metrics["gradient_norm"]))[0].measured
    for layer in ("inner", "outer"):
        for name, gradient in expected[layer].items():
            assert f"{layer}/{name} {float(np.linalg.norm(gradient)):.2g}" in listed


def test_a_layer_that_this_data_does_not_reach_is_a_warning():
    reach = {finding.check: finding for finding in rehearsed(Unread()).findings}["gradients reach"]
    assert (reach.level, reach.advice) == ("warning", "inner had none: a line without a bend")


def test_a_layer_without_gradient_is_a_failure():
    findings = {finding.check: finding for finding in rehearsed(Frozen()).findings}
    reach = findings["gradients reach"]
    assert (
        reach.level == "failure" and "inner/bias, inner/kernel" in reach.advice and reach.measured.startswith("2 of 4")
    )


def test_running_means_need_no_gradient():
    assert levels(rehearsed(Averaging()).findings)["gradients reach"] == "ok"


def test_a_layer_with_a_tiny_gradient_is_named():
    findings = {finding.check: finding for finding in rehearsed(Lopsided()).findings}
    far = findings["gradients of layers"]
    assert far.level == "warning" and "inner/kernel" in far.advice and "outer" not in far.advice
    assert findings["gradients reach"].level == "ok"


def test_a_poisoned_batch_and_a_stage_that_does_not_learn():
    batch = next(batches())
    broken = rehearsed(RegressionStage(), {**batch, "x": batch["x"] * np.float32(np.nan)})
    found = levels(broken.findings)
    assert found["first step"] == "failure" and found["gradients"] == "failure" and "one batch by heart" not in found
    still = rehearsed(RegressionStage(optim=OptimConfig(learning_rate=0.0, warmup_steps=0)))
    assert levels(still.findings)["one batch by heart"] == "warning"


def test_codebooks_are_judged_by_their_errors(tmp_path):
    six_stages.save_parents(tmp_path)
    stage = six_stages.make_stage("codes", tmp_path)
    findings = {
        finding.check: finding for finding in rehearsed(stage, next(six_stages.make_batches(stage)), 9).findings
    }
    assert set(levels(findings.values()).values()) == {"ok"}, findings
    assert "kmeans_error 1 to 0." in findings["one batch by heart"].measured


# Disk.


@pytest.fixture(scope="module")
def state():
    return initial_state(RegressionStage(config=RegressionConfig(width=32)), 0, make_mesh("data=-1"))


def test_a_checkpoint_leaves_nothing_behind(state, tmp_path):
    found = disk.check_disk(state, batches(), tmp_path / "new" / "models", "regression", keep=3)
    assert set(levels(found).values()) == {"ok"} and not list(tmp_path.iterdir())
    assert "read back equal" in found[0].measured


def test_a_full_disk(state, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    found = levels(disk.check_disk(state, batches(), tmp_path, "regression", keep=3))
    assert found == {"checkpoint": "ok", "disk space": "failure"}


def test_a_disk_that_changes_what_is_written(state, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Checkpoints, "restore", lambda self, state, batches: Restored(state.replace(step=state.step + 1), {})
    )
    assert levels(disk.check_disk(state, batches(), tmp_path, "regression", keep=3))["checkpoint"] == "failure"


def test_a_folder_that_cannot_be_written(state, tmp_path):
    file = tmp_path / "a file"
    file.touch()
    (finding,) = disk.check_disk(state, batches(), file, "regression", keep=3)
    assert finding.level == "failure" and "a file" in finding.measured
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]
