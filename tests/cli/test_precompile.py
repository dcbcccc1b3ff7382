"""`melody precompile`, with this machine's eight CPU devices standing where a slice's chips would: what it says and saves."""

import dataclasses
import json
import sys

import jax
import pytest
from flax import linen as nn
from jax.experimental.compilation_cache import compilation_cache

from melody_jax.cli import main
from melody_jax.errors import UserError
from melody_jax.graph import NETWORKS
from melody_jax.operations import configuration
from melody_jax.operations.ahead import compile, plan, topology
from melody_jax.operations.ahead.program import Cost
from melody_jax.parallel.mesh import make_mesh
from melody_jax.watch import flops
from tests.stages import test_autoencoder

SMALL = {"layers": 2, "width": 32, "heads": 2, "hidden": 64, "unroll": 2, "window": 0}
BINDINGS = [word for name, value in SMALL.items() for word in ("--set", f"lm.LMConfig.{name}={value}")]


@pytest.fixture
def slice_of_cpus(monkeypatch):
    """Eight devices for every topology; a chip's memory can be set."""
    compilation_cache.reset_cache()  # whether it is used is asked once
    monkeypatch.setattr(topology, "devices_of", lambda name, slices: jax.devices())
    yield lambda size: monkeypatch.setitem(
        topology.CHIPS, "v5e", dataclasses.replace(topology.CHIPS["v5e"], hbm_bytes=size)
    )
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


def precompile(capsys, program, *options):
    """(exit code, the JSON on stdout, stderr)."""
    command = ["precompile", program, "--size", "tiny", "--topology", "v5e:2x4", "--json", *BINDINGS, *options]
    code = main.main(command)
    said = capsys.readouterr()
    return code, json.loads(said.out), said.err


def test_what_a_training_step_costs(slice_of_cpus, capsys, tmp_path):
    run = tmp_path / "run.gin"
    run.write_text(
        "from __gin__ import dynamic_registration\n"
        "from melody_jax.train import loop\n"
        "BATCH_SIZE = 16\n"
        "loop.Run.mesh = 'data=2,fsdp=4'\n"
    )
    options = ["--gin_file", str(run), "--set", "lm.LMConfig.remat='full'", "--save", str(tmp_path)]
    code, report, _ = precompile(capsys, "lm", *options)
    assert code == 0 and report["fits"] and "hint" not in report
    assert (report["chips"], report["batch"], report["mesh"]) == (8, 16, "data=2,fsdp=4")
    made = configuration.compose(
        configuration.gin_files("lm", "tiny", "tpu"),
        bindings=["BATCH_SIZE = 16", *(f"lm.LMConfig.{name} = {value}" for name, value in SMALL.items())],
    ).stage
    state = nn.unbox(jax.eval_shape(made.init, jax.random.PRNGKey(0)))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # float32, the embedding and every product split over fsdp, scales of norms whole
    assert 0.25 * 4 * parameters < report["held_bytes"]["parameters"] < 0.3 * 4 * parameters
    # an average and one moment (Muon), two for what AdamW trains in its place
    assert 2 < report["held_bytes"]["optimiser"] / report["held_bytes"]["parameters"] < 3
    assert report["model_flops"] == flops.count(made.train_step, state, made.batch_shapes())
    assert report["hardware_flops"] > report["model_flops"]  # remat="full"
    assert report["mfu"] is None  # a CPU's compiler estimates no cycles
    assert report["communication_seconds"] > 0
    assert report["peak_bytes"] >= sum(report["held_bytes"].values())
    assert report["collectives"]["all-gather"][0] > 0
    (saved,) = tmp_path.glob("*.xla")
    assert saved.stat().st_size > 10_000


def test_a_phase_of_a_training_is_a_program_of_its_own():
    stage = dataclasses.replace(test_autoencoder.STAGE, adversarial_start=100)
    mesh = make_mesh("data=1", jax.devices()[:1])
    first, last = plan.training(stage, mesh, 0), plan.training(stage, mesh)
    assert first.held == last.held  # the discriminators wait in memory
    assert first.model_flops < last.model_flops
    assert plan.training(stage, mesh, 100).model_flops == last.model_flops


def test_one_token_of_every_clip_and_its_cache(slice_of_cpus, capsys):
    code, report, _ = precompile(capsys, "lm-decode", "--batch_size", "8")
    assert code == 0 and report["batch"] == 8
    stage = configuration.compose(configuration.gin_files("lm", "tiny", "tpu")).stage
    slots = stage.vocabulary.prefix + stage.geometry.clip_semantic
    cache = 2 * SMALL["layers"] * 2 * 8 * slots * SMALL["width"]  # keys and values, guided
    assert cache / 8 * 2 <= report["held_bytes"]["inputs"] < 1.2 * cache / 8 * 4, "a chip holds its own clips alone"


@pytest.mark.parametrize("mesh", ["data=2,fsdp=4", "data=1"])
def test_the_diffusion_of_a_clip_is_a_program(mesh):
    stages = {name: configuration.compose(configuration.gin_files(name, "tiny", "tpu")).stage for name in NETWORKS}
    devices = jax.devices()[: 1 if mesh == "data=1" else 8]
    few, more = (plan.sampling("dpd-sampler", stages, make_mesh(mesh, devices), 8, steps, 2.5) for steps in (2, 4))
    assert more.model_flops > 1.9 * few.model_flops > 0
    assert "stablehlo" in few.program.lower(*few.arguments).as_text()


def test_what_sampling_costs_and_what_does_not_fit_is_said_with_what_to_do(slice_of_cpus, capsys):
    slice_of_cpus(0.02e9)
    code, report, error = precompile(capsys, "decoder")
    assert code == 3 and not report["fits"]
    assert report["batch"] == 8 and report["held_bytes"].keys() == {"parameters", "inputs"}
    assert report["model_flops"] > 0 and report["peak_bytes"] > sum(report["held_bytes"].values())
    assert error.startswith("error: does not fit: 0.0 GB of 0.02 GB; try another remat policy")


def test_a_step_takes_what_the_compiler_says_of_its_cycles_and_what_the_links_let_through():
    chip = topology.CHIPS["v5e"]
    cost = Cost(0, 0, 0, 0, {"all-gather": (3, 9 * 10**9), "all-reduce": (1, 9 * 10**9)}, 3 * 10**8, 0)
    ideal = 0.1  # seconds of the model FLOPs at the chip's peak
    times = compile.times(ideal, cost, chip)
    assert times["computation_seconds"] == pytest.approx(0.2)  # at 1.5 GHz
    assert times["communication_seconds"] == pytest.approx(0.2)  # 18 GB over two links of 45 GB/s
    assert times["mfu"] == pytest.approx(0.5) and times["mfu_without_overlap"] == pytest.approx(0.25)
    # half of it with nothing beside it: 0.1 s, then 0.1 s beside 0.2 s of computation
    cost = dataclasses.replace(cost, blocking={"all-reduce": (1, 9 * 10**9)})
    times = compile.times(ideal, cost, chip)
    assert (times["blocking_seconds"], times["seconds"]) == (pytest.approx(0.1), pytest.approx(0.3))
    assert times["mfu"] == pytest.approx(1 / 3) and times["mfu_without_overlap"] == pytest.approx(0.25)
    # between slices: 3.125 GB at 3.125 GB/s a chip
    times = compile.times(ideal, dataclasses.replace(cost, network_bytes=3_125_000_000), chip)
    assert (times["network_seconds"], times["seconds"]) == (pytest.approx(1.0), pytest.approx(1.1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology", "v5e:2x4"], "unknown program 'lmm'; choose one of autoencoder,"),
        (["--topology", "v9:2x4"], "topology 'v9:2x4' is not KIND:AxB"),
        (["--topology", "v5e:8"], "topology 'v5e:8' is not KIND:AxB"),
        (["--topology", "v5e:2x4", "--batch_size", "0"], "must be at least 1"),
        (["--topology", "v5e:2x4", "--operations", "-1"], "--operations must be at least 0"),
        (["--topology", "v5e:2x4", "--batch_size", "9"], "a global batch of 9 does not divide over data=8"),
        (["--topology", "v5e:2x4", "--mesh", "data=3"], "needs 3 devices and there are 8"),
        (["--topology", "v5e:2x4", "--set", "lm.LMConfig.widht=3"], "doesn't have a parameter named 'widht'"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(slice_of_cpus, capsys, arguments, message):
    program = "lmm" if "lmm" in message else "lm"
    assert main.main(["precompile", program, "--size", "tiny", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and message in error


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(UserError, match=r"pip install 'melody_jax\[aot\]'"):
        topology.devices_of("v5e:2x4")
