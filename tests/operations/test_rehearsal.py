"""What a rehearsal makes of a training, and how it compares curves and counts chip-hours."""

import json
import math

import pytest

from melody_jax import graph, storage
from melody_jax.errors import StoppedError, UserError
from melody_jax.files import json_lines, write_whole
from melody_jax.operations import configuration
from melody_jax.operations.fit import check_fit
from melody_jax.operations.rehearsal.forecast import MFU, compiled_step, forecast
from melody_jax.operations.rehearsal.slices import Slices
from melody_jax.operations.rehearsal.small import ROWS, shrunk, small
from melody_jax.operations.rehearsal.trial import KILLED, difference, folder, rehearse, write_rate
from melody_jax.watch import goodput

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


@pytest.fixture(params=["disk", "bucket"])
def model_dir(request, tmp_path):
    return tmp_path / "models" if request.param == "disk" else request.getfixturevalue("gcs_folder") / "models"


def pod(model_dir, loss, codes):
    """Starts of a pod that trains ten steps at once: loss(start, step), and the exit codes of its starts if they are not
    those that are wanted."""
    starts = []

    def start(command, log, kill_when):
        number, bound = len(starts), dict(word.removeprefix("--gin.loop.Run.").split("=", 1) for word in command[4:])
        starts.append(bound)
        directory, steps = model_dir / bound["folder_name"].strip("'"), (10, 20, 20)[number]
        assert kill_when is None or not kill_when()
        rows = [{"split": "train", "step": step, "loss": loss(number, step)} for step in range(1, steps + 1)]
        for at in range(10, steps + 1, int(bound["checkpoint_every"])):
            (directory / "checkpoints" / str(at)).mkdir(parents=True, exist_ok=True)
            write_whole(directory / "checkpoints" / str(at) / "commit_success.txt", "")
        write_whole(directory / "metrics.jsonl", json_lines(rows))
        spent = {
            "seconds": {"checkpointing": 4, "steps": 9, "startup": 2.0, "compilation": 3.0},
            "taken": 10,
            "process": 1,
        }
        write_whole(directory / goodput.FILE, json_lines([spent]))
        killed = kill_when is not None and kill_when()
        return codes[number] if codes else KILLED if killed else 0

    return start


def test_a_start_is_killed_goes_on_and_is_compared(model_dir, tmp_path):
    with open(tmp_path / "log", "w+") as log:
        with folder(model_dir) as made:
            assert write_rate(made, 1000) > 0
            shown = rehearse(["train"], model_dir, 10, pod(model_dir, lambda _, step: 1 / step, None), log)
            assert (shown.resumed, shown.steps, shown.difference, shown.seamless) == (10, 20, 0, True)
            assert (shown.checkpoint_seconds, shown.step_seconds, shown.restart_seconds) == (2, 1, 5)
        with folder(model_dir):
            other = pod(model_dir, lambda number, step: (1 + number) / step, None)
            assert not rehearse(["train"], model_dir, 10, other, log).seamless
        with pytest.raises(StoppedError, match="the start that goes on ended with exit code 1"), folder(model_dir):
            rehearse(["train"], model_dir, 10, pod(model_dir, lambda *_: 1, (KILLED, 1)), log)
        with pytest.raises(StoppedError, match="killed from outside before the first checkpoint"), folder(model_dir):
            rehearse(["train"], model_dir, 10, lambda *_: KILLED, log)
    assert storage.files_below(model_dir) == {}


def composed(*bindings):
    files = configuration.gin_files("lm", "tiny", "tpu")
    return configuration.compose(files, bindings=["BATCH_SIZE = 256", "TOTAL_STEPS = 7200", *bindings])


def test_the_forecast_is_arithmetic_on_what_is_known():
    adamw = "optim.OptimConfig.optimizer = 'adamw'"
    config = composed("loop.Run.mesh = 'data=16,fsdp=16'", adamw)
    found = forecast(config.stage, config.run, V5E_256, step=0.5)
    assert found.run == pytest.approx(3600) and found.chip_hours == pytest.approx(256)
    assert found.rows == pytest.approx(256 / 64 / 0.5)
    assert found.step_flops == pytest.approx(found.mfu * 0.5 * 256 * 197e12)
    assert found.written == 4 * found.state
    # parameters, their average and two moments, in float32; what fsdp splits is not on every chip
    assert found.checkpoint == pytest.approx(16 * parameters(config.stage), rel=0.01)
    whole = composed("loop.Run.mesh = 'data=256'", adamw)
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
    with pytest.raises(UserError, match="report.json cannot be read: it holds no JSON object"):
        compiled_step(file, config.stage, config.run, V5E_256)
