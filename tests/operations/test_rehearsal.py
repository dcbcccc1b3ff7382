"""What a rehearsal makes of a training, and how it compares curves and counts chip-hours."""

import json
import math

import pytest

from melody_jax import graph
from melody_jax.errors import UserError
from melody_jax.operations import configuration
from melody_jax.operations.fit import check_fit
from melody_jax.operations.rehearsal.forecast import MFU, compiled_step, forecast
from melody_jax.operations.rehearsal.slices import Slices
from melody_jax.operations.rehearsal.small import ROWS, shrunk, small
from melody_jax.operations.rehearsal.trial import difference

V5E_256 = Slices("v5e", 256, 256, 64)


@pytest.mark.parametrize(
    ("sizes", "devices", "found"),
    [
        ((1, 16, 16, 1), 8, (1, 4, 2, 1)),
        ((2, 16, 4, 1), 8, (2, 2, 2, 1)),
        ((1, 256, 1, 1), 8, (1, 8, 1, 1)),
        ((1, 3, 8, 1), 8, (1, 1, 8, 1)),  # three do not divide eight
        ((1, 2, 1, 1), 8, (1, 2, 1, 1)),  # no axis grows beyond its own size
    ],
)
def test_axes_shrink_together(sizes, devices, found):
    assert shrunk(sizes, devices) == found


@pytest.mark.parametrize("size", ["tiny", "paper"])
@pytest.mark.parametrize("stage", graph.NETWORKS)
def test_every_stage_is_small_and_fits_a_pod_here(stage, size):
    whole = configuration.compose(configuration.gin_files(stage, size, "tpu")).stage
    made = small(V5E_256, "data=-1", max(whole.batch_size, 256), hosts=2)
    assert (made.hosts, made.devices, made.batch) == (2, 4, 8 * min(ROWS, max(whole.batch_size, 256) // 256))
    words = made.words(whole)
    bindings = [word.removeprefix("--gin.") for word in words if word.startswith("--gin.")]
    narrow = words[words.index("--gin_file") + 1]
    files = configuration.gin_files(stage, size, "cpu")
    config = configuration.compose(files, [narrow], [*bindings, "loop.Run.total_steps = 20"])
    check_fit({stage: config}, 8, 1)
    assert config.stage.geometry == whole.geometry
    assert parameters(config.stage) < 3e6


def parameters(stage):
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(stage.init, jax.random.PRNGKey(0)).params))


CURVE = [(1, 4.0), (2, 3.0), (3, 2.0)]


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (CURVE, 0.0),
        ([(1, 4.0), (2, 3.0), (3, 2.5)], 0.2),
        (CURVE[:2], math.inf),
        ([(1, 4.0), (2, 3.0), (2, 3.0), (3, 2.0)], math.inf),
        ([], math.inf),
    ],
)
def test_a_seam_shows(other, found):
    assert difference(CURVE, other) == pytest.approx(found)


def composed(*bindings):
    files = configuration.gin_files("lm", "tiny", "tpu")
    return configuration.compose(files, bindings=["BATCH_SIZE = 256", "TOTAL_STEPS = 7200", *bindings])


def test_the_forecast_is_arithmetic_on_what_is_known():
    config = composed("loop.Run.mesh = 'data=16,fsdp=16'")
    found = forecast(config.stage, config.run, V5E_256, step=0.5)
    assert found.run == pytest.approx(3600) and found.chip_hours == pytest.approx(256)
    assert found.rows == pytest.approx(256 / 64 / 0.5)
    assert found.step_flops == pytest.approx(found.mfu * 0.5 * 256 * 197e12)
    assert found.written == 4 * found.state
    # parameters, their average and two moments, in float32; what fsdp splits is not on every chip
    assert found.checkpoint == pytest.approx(16 * parameters(config.stage), rel=0.01)
    whole = composed("loop.Run.mesh = 'data=256'")
    assert forecast(whole.stage, whole.run, V5E_256).state == pytest.approx(found.checkpoint, rel=1e-3)
    assert found.state < found.checkpoint / 10


def test_twice_the_mfu_is_half_the_time():
    config = composed()
    one, two = (forecast(config.stage, config.run, V5E_256, mfu=mfu) for mfu in (0.2, 0.4))
    assert one.run == pytest.approx(2 * two.run)
    assert forecast(config.stage, config.run, Slices("tpu7x", 128, 256, 32)).mfu == min(MFU["lm"].values())


def test_a_compiled_step_is_that_of_this_training(tmp_path):
    config, file = composed(), tmp_path / "report.json"
    report = {"program": "lm", "batch": 256, "chips": 256, "slices": 1, "mesh": "data=256", "seconds": 0.25}
    file.write_text(json.dumps(report))
    assert compiled_step(file, config.stage, config.run, V5E_256) == 0.25
    for change in ({"batch": 128}, {"mesh": "data=16,fsdp=16"}, {"seconds": None}):
        file.write_text(json.dumps(report | change))
        with pytest.raises(UserError, match="--compiled"):
            compiled_step(file, config.stage, config.run, V5E_256)
    file.write_text("[]")
    with pytest.raises(UserError, match="no report"):
        compiled_step(file, config.stage, config.run, V5E_256)
