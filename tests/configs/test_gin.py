"""Every gin file builds: all stages at all sizes, nothing bound in vain, parameters on a mesh, nothing allocated."""

import dataclasses
import json

import jax
import pytest

from melody_jax import config as config_lib
from melody_jax import graph
from melody_jax.bundle import part as part_lib
from melody_jax.generate.settings import Settings
from melody_jax.operations import configuration
from melody_jax.parallel.init import abstract_state
from melody_jax.parallel.mesh import make_mesh

ROOT = configuration.configs_directory()
RUNS = [(stage, size) for size in configuration.sizes() for stage in graph.ORDER]


def compose(stage, size, hardware="cpu", **changes):
    return configuration.compose(configuration.gin_files(stage, size, hardware), **changes)


def with_parents(stage, size, folder):
    """The stage with the part.json (no weights: `init` must not read them) of each parent in `folder`."""
    for parent in graph.PARENTS.get(stage.name, ()):
        made = compose(parent, size).stage
        info = {
            "format": part_lib.FORMAT,
            "name": parent,
            "config": config_lib.to_dict(made.config),
            "geometry": config_lib.to_dict(made.geometry),
            "id": parent,
            "parents": {},
            "training": {},
            "dtype": "float32",
            "files": {},
        }
        (folder / parent).mkdir()
        (folder / parent / part_lib.INFO_FILE).write_text(json.dumps(info))
    return dataclasses.replace(stage, parents_dir=str(folder)) if stage.name in graph.PARENTS else stage


@pytest.mark.parametrize("size", configuration.sizes())
def test_sampling_defaults_are_settings(size):
    chosen = configuration.sampling_defaults(size)
    assert bool(chosen) == (ROOT / "sizes" / size / "sampling.gin").exists()
    Settings(**chosen)


@pytest.mark.parametrize(("stage", "size"), RUNS)
def test_stage_builds_at_this_size(stage, size, tmp_path):
    composed = compose(stage, size)
    assert configuration.unread() == []
    made = with_parents(composed.stage, size, tmp_path)
    assert made.name == stage
    state = abstract_state(made.init, make_mesh("data=2,fsdp=2,tensor=2"))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))
    assert all(shape.shape[0] == made.batch_size for shape in made.batch_shapes().values())
    assert composed.run.total_steps > 0
    # what is written into the run's folder makes the same run
    saved = tmp_path / "config.gin"
    saved.write_text(composed.text)
    again = configuration.compose([], [str(saved)])
    assert (again.stage, again.run) == (composed.stage, composed.run)


@pytest.mark.parametrize("size", configuration.sizes())
def test_all_stages_of_a_size_share_one_geometry(size):
    assert len({compose(stage, size).stage.geometry for stage in graph.ORDER}) == 1


def test_the_published_autoencoder_has_the_published_loss_and_scale():
    stage = compose("autoencoder", "paper").stage
    weights = {name: getattr(stage.loss, name) for name in ("spectral", "features", "adversarial", "kl")}
    assert weights == {"spectral": 50.0, "features": 20.0, "adversarial": 1.0, "kl": 0.005}
    others = ("mel", "stft", "complex", "waveform")
    assert not any(getattr(stage.loss, name) for name in others) and stage.loss.gan == "least_squares"
    assert stage.loss.spectral_ffts == (8192, 4096, 2048, 512, 128, 64, 32)
    assert stage.latent_bound == 3.0


def test_the_ablation_recipe_is_the_published_one():
    files = configuration.gin_files("dpd", "paper", "tpu")
    composed = configuration.compose(files, [str(ROOT / "runs" / "paper_ablation_dpd.gin")])
    stage = composed.stage
    assert (composed.run.total_steps, stage.batch_size, stage.optim.learning_rate) == (100_000, 96, 5e-4)
    assert stage.config.chunks == 4 and stage.config.precondition == "none"


def test_gelu_is_the_publications_but_in_the_run_file_of_a_slice():
    files = configuration.gin_files("mulan", "paper", "tpu")
    for run, activation in ((), "gelu"), ((str(ROOT / "runs" / "v5e_256_mulan.gin"),), "gelu_tanh"):
        config = configuration.compose(files, list(run)).stage.config
        assert config.music.activation == config.text.activation == activation


@pytest.mark.parametrize("hardware", sorted(path.stem for path in (ROOT / "hardware").glob("*.gin")))
def test_hardware_decides_the_compute_dtype(hardware):
    expected = "float32" if hardware == "cpu" else "bfloat16"
    dtypes = {stage: getattr(compose(stage, "paper", hardware).stage.config, "dtype", None) for stage in graph.ORDER}
    assert {stage: dtype for stage, dtype in dtypes.items() if dtype not in (None, expected)} == {}


@pytest.mark.parametrize("path", sorted((ROOT / "runs").glob("*.gin")), ids=str)
def test_run_files_bind_nothing_in_vain(path):
    ignored = []
    for stage in graph.ORDER:
        files = configuration.gin_files(stage, "tiny", "cpu")
        configuration.compose(files, [str(path)], partial=True)
        ignored.append(set(configuration.unread()))
    assert set.intersection(*ignored) == set()


@pytest.mark.parametrize("kind", ("full", "lora"))
@pytest.mark.parametrize("stage", graph.READ_TOKENS)
def test_finetuning_files_bind_nothing_in_vain(stage, kind):
    files = [*configuration.gin_files(stage, "tiny", "cpu"), *(ROOT / "finetune" / f"{n}.gin" for n in (stage, kind))]
    assert configuration.compose(files).run.total_steps > 0
    assert configuration.unread() == []


def test_every_gin_file_is_covered_by_these_tests():
    assert {path.stem for path in (ROOT / "finetune").glob("*.gin")} == {*graph.READ_TOKENS, "full", "lora"}
    assert {path.stem for path in (ROOT / "rehearsal").glob("*.gin")} == set(graph.NETWORKS)
    known = {"finetune", "rehearsal", "stages", "sizes", "hardware", "data", "runs", "sweeps", "t5x"}
    assert {path.relative_to(ROOT).parts[0] for path in ROOT.rglob("*.gin")} <= known
    assert {path.stem for path in (ROOT / "stages").glob("*.gin")} == set(graph.ORDER)
    assert {path.stem for path in (ROOT / "sizes").glob("*/*.gin")} <= {*graph.ORDER, "geometry", "sampling"}
