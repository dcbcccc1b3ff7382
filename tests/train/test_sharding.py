"""Twenty steps of every stage on eight devices, split in every way, are those of one device.

Tolerances: products and means over a split axis are summed in another order, which costs a few float32 roundings a step;
Adam divides small gradients by their own size and so turns roundings of parameters that hardly matter into steps of full
length. Hence losses to 1e-3 of their value, and parameters to 2 % of the way that they went in twenty steps; measured
differences are printed with -s.
"""

import dataclasses

import jax
import numpy as np
import pytest

from melody_jax.graph import ORDER
from melody_jax.parallel.mesh import make_mesh
from melody_jax.train.start import calibrated, initial_state
from melody_jax.train.steps import Steps
from tests.train import six_stages

STEPS = 20
LOSS, WAY = 1e-3, 0.02
MESHES = ("data=8", "fsdp=8", "data=4,tensor=2")


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    six_stages.save_parents(folder)
    return folder


@pytest.fixture(scope="module")
def alone(parents):
    """Stage -> what one device makes of it; computed when asked for, once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = _train(name, parents, make_mesh("data=1", jax.devices()[:1]))
        return made[name]

    return of


def _train(name, parents, mesh):
    """(losses, parameters at the start, at the end), on the host."""
    stage = six_stages.make_stage(name, parents)
    stage = dataclasses.replace(stage, batch_size=max(stage.batch_size, 8))  # a row for each device at least
    if name == "autoencoder":
        channels = {"period_channels": (8, 8), "spectral_channels": (8, 8)}  # that eight devices can split
        discriminators = dataclasses.replace(stage.discriminators, **channels)
        # eps: gradients that are zero but for rounding shall not become steps of full size
        optim = dataclasses.replace(stage.optim, eps=1e-4)
        changes = {"optim": optim, "discriminator_optim": optim, "discriminators": discriminators}
        stage = dataclasses.replace(stage, **changes)
    batches = six_stages.make_batches(stage)
    steps = Steps(stage, mesh, calibrated(stage, initial_state(stage, 0, mesh), batches))
    start, losses = jax.device_get(steps.state.params), []
    for _ in range(STEPS):
        steps.dispatch(next(batches))
        losses.append(steps.take_means())
    names = sorted(name for name in losses[0] if "loss" in name or name.endswith("_error"))
    curves = np.array([[step[name] for name in names] for step in losses])
    return curves, start, jax.device_get(steps.state.params)


def _compare(name, spec, alone, parents):
    curves, start, end = alone(name)
    split_curves, split_start, split_end = _train(name, parents, make_mesh(spec))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), split_start, start)
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (start, end, split_end)]
    away = np.linalg.norm(flat[2] - flat[1]) / np.linalg.norm(flat[1] - flat[0])
    loss = np.max(np.abs(split_curves - curves) / np.abs(curves))
    print(f"{name} on {spec}: losses differ by {loss:.1e}, parameters by {away:.1e} of their way")
    assert loss < LOSS and away < WAY


@pytest.mark.parametrize(
    "name", [name if name == "lm" else pytest.param(name, marks=pytest.mark.slow) for name in ORDER]
)
def test_a_mix_of_all_axes_gives_the_numbers_of_one_device(name, alone, parents):
    _compare(name, "data=2,fsdp=2,tensor=2", alone, parents)


@pytest.mark.slow
@pytest.mark.parametrize("spec", MESHES)
@pytest.mark.parametrize("name", ORDER)
def test_each_axis_gives_the_numbers_of_one_device(name, spec, alone, parents):
    _compare(name, spec, alone, parents)
