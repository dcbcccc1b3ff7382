"""Low-rank adapters: they begin at nothing, learn while the part stays, and are added to it by weight."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.bundle.adapter import AdapterConfig, adapted, with_adapters
from melody_jax.bundle.part import flatten, load_part, save_part
from melody_jax.dpd.config import DPDConfig
from melody_jax.errors import UserError
from melody_jax.lm.loss import clip_losses
from melody_jax.stages.adapter import AdapterStage
from melody_jax.stages.dpd import DPDStage
from melody_jax.train import loop
from melody_jax.train.arrays import ArrayBatches
from melody_jax.train.optim import OptimConfig
from melody_jax.train.run import Run
from melody_jax.train.stage import Data
from tests.stages.test_lm import GEOMETRY, STAGE, batch_of

OPTIM = OptimConfig(learning_rate=3e-2, warmup_steps=2, total_steps=30, weight_decay=0.0, ema_decay=0.9)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A language model as it is before training, as a part in float16, as bundles have them."""
    state = nn.unbox(jax.jit(STAGE.init)(jax.random.PRNGKey(0)))
    folder = tmp_path_factory.mktemp("parts") / "lm"
    return folder, save_part(folder, "lm", state.params, STAGE.config, GEOMETRY, {"codes": "c"}, {}, dtype="float16")


@pytest.fixture(scope="module")
def stage(base):
    return AdapterStage(AdapterConfig("lm", rank=2, alpha=4.0), GEOMETRY, OPTIM, 16, STAGE, str(base[0]))


@pytest.fixture(scope="module")
def trained(stage, tmp_path_factory):
    arrays = {name: np.asarray(value) for name, value in batch_of(0).items()}
    data = Data(ArrayBatches(arrays, 16), ArrayBatches(arrays, 16, shuffle=False))
    run = Run(total_steps=30, eval_every=30, log_every=30, eval_steps=1, model_dir=str(tmp_path_factory.mktemp("run")))
    return loop.train(stage, data, run), run


def _loss(params):
    """Nats per semantic token of the clips that are learnt by heart."""
    batch, params = batch_of(0), jax.tree.map(jnp.asarray, params)
    return clip_losses(STAGE.model, params, batch["mulan"], batch["semantic"], 10, 1).mean()


def test_before_training_nothing_changes(stage, base):
    state = jax.tree.map(jnp.asarray, stage.load(nn.unbox(jax.jit(stage.init)(jax.random.PRNGKey(1)))))
    own = STAGE.eval_step(state.replace(params=state.frozen, ema=None), batch_of(1))
    for name, value in stage.eval_step(state, batch_of(1)).items():
        np.testing.assert_allclose(value, own[name], rtol=1e-6, err_msg=name)
    kernels = {name for name in flatten(load_part(base[0]).params) if name.endswith("kernel")}
    assert {name.rpartition("/")[0] for name in flatten(nn.unbox(state.params))} == kernels


def test_it_learns_and_merges(trained, base):
    """The part with its adapter says what the training said of it; without, or at weight 0, it is what it was."""
    part, run = trained
    assert part.name == "adapter" and part.parents == {"lm": base[1].id} and (run.folder("lm") / "part").is_dir()
    told = part.training["evaluation"]["loss"]
    whole = adapted(load_part(base[0]), [(part, 1.0)])
    np.testing.assert_allclose(_loss(whole.params), told, rtol=1e-4)
    before = jax.tree.map(lambda leaf: leaf.astype(np.float32), load_part(base[0]).params)
    assert told < 0.8 * _loss(before)
    nothing = flatten(adapted(load_part(base[0]), [(part, 0.0)]).params)
    for name, value in flatten(before).items():
        np.testing.assert_array_equal(nothing[name], value, err_msg=name)


def test_weights_add_up(trained, base):
    part, run = trained
    parts = {"lm": load_part(base[0])}
    folder = str(run.folder("lm"))
    once = with_adapters(parts, {folder: 1.0})["lm"]
    twice = adapted(parts["lm"], [(part, 0.25), (part, 0.75)])
    for name, value in flatten(once.params).items():
        np.testing.assert_allclose(flatten(twice.params)[name], value, atol=1e-6, err_msg=name)
    assert len({once.id, twice.id, parts["lm"].id}) == 3 and once.training["adapters"] == [[part.id, 1.0]]
    assert with_adapters(parts, {str(run.model_dir): 1.0})["lm"].id == once.id  # the folder above it will do


def test_what_does_not_belong_together_is_refused(trained, base, tmp_path):
    part, run = trained
    other = dataclasses.replace(load_part(base[0]), id="0" * 64)
    with pytest.raises(UserError, match="was trained on lm"):
        adapted(other, [(part, 1.0)])
    with pytest.raises(UserError, match="is no adapter"):
        adapted(base[1], [(base[1], 1.0)])
    with pytest.raises(UserError, match="holds no adapter"):
        with_adapters({"lm": base[1]}, {str(tmp_path): 1.0})
    with pytest.raises(UserError, match="finite"):
        with_adapters({"lm": base[1]}, {str(run.folder("lm")): float("nan")})
    with pytest.raises(UserError, match="rank of 0"):
        AdapterConfig("lm", rank=0)


def test_what_a_diffusion_model_measured_stays_with_it(tmp_path):
    """An adapter of a preconditioned network works around the moments that the network was trained around."""
    config = DPDConfig(
        width=16, blocks=1, segment=4, heads=2, coarse_layers=1, hidden=16, recurrent_width=8, angle_width=8,
        precondition="linear",
    )  # fmt: skip
    dpd = DPDStage(config, dataclasses.replace(GEOMETRY, hop=480, latent_channels=4), OPTIM, 2)
    state = nn.unbox(jax.jit(dpd.init)(jax.random.PRNGKey(0)))
    rng = np.random.default_rng(0)
    batch = {
        name: rng.normal(size=shape.shape).astype(np.float32) if name == "latents" else np.ones(shape.shape, np.int32)
        for name, shape in dpd.batch_shapes().items()
    }
    state = jax.tree.map(jnp.asarray, dpd.calibrate(state, iter([batch] * dpd.calibration_batches)))
    params = dpd.finish(state, iter(()))
    save_part(tmp_path / "dpd", "dpd", params, config, dpd.geometry, {}, {})
    stage = AdapterStage(AdapterConfig("dpd", rank=2), dpd.geometry, OPTIM, 2, dpd, str(tmp_path / "dpd"))
    adapter = jax.tree.map(jnp.asarray, stage.load(nn.unbox(jax.jit(stage.init)(jax.random.PRNGKey(1)))))
    on_device = jax.tree.map(jnp.asarray, batch)
    told, own = stage.eval_step(adapter, on_device), dpd.eval_step(state, on_device)
    np.testing.assert_allclose(told["velocity_error"], own["velocity_error"], rtol=1e-5)
    assert np.isfinite(jax.jit(stage.train_step)(adapter, on_device)[1]["loss"])
