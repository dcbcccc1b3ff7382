"""The table of stages agrees with what is written elsewhere of each stage: classes, configurations, converters, parents."""

import dataclasses
import importlib

import pytest

from data_pipelines import tasks
from data_pipelines.converters import CONVERTERS
from melody_jax import graph
from melody_jax.bundle import bundle
from melody_jax.errors import UserError
from melody_jax.interop import t5x_layout
from melody_jax.operations import configuration
from melody_jax.train.optim import OptimConfig
from melody_jax.train.stage import Stage
from tests.stages import test_autoencoder, test_codes, test_lm
from tests.train.regression import RegressionStage


def test_parents_come_first_and_sampling_has_all_that_it_needs():
    for name, node in graph.STAGES.items():
        assert all(graph.ORDER.index(parent) < graph.ORDER.index(name) for parent in node.parents)
    assert graph.needed_by("codes") == ("mulan", "semantic") and graph.needed_by("mulan") == ()
    assert graph.needed_by("lm") == ("autoencoder", "mulan", "semantic", "codes")


def test_every_list_of_stages_follows():
    assert set(CONVERTERS) == set(graph.ORDER) == {*tasks.AUDIO_STAGES, *tasks.TOKEN_STAGES}
    assert set(t5x_layout.STAGES) == set(graph.READ_TOKENS)
    assert {*bundle.REQUIRED, *bundle.OPTIONAL} == set(graph.ORDER) and bundle.OPTIONAL == ("semantic",)
    files = {path.stem for path in (configuration.configs_directory() / "stages").glob("*.gin")}
    assert files == set(graph.ORDER)


@pytest.mark.parametrize("name", graph.ORDER)
def test_a_stage_is_a_class_of_its_name_that_forgets_nothing(name):
    module = importlib.import_module(f"melody_jax.stages.{name}")
    (stage,) = (kind for kind in vars(module).values() if getattr(kind, "name", None) == name)
    assert issubclass(stage, Stage) and not stage.__abstractmethods__
    parents = {field.name for field in dataclasses.fields(stage)} & {"parents_dir"}
    assert bool(parents) == (name in graph.PARENTS)


def test_a_forgotten_method_fails_at_once():
    class Forgetful(Stage):
        name = "forgetful"

    with pytest.raises(TypeError, match="abstract method"):
        Forgetful()  # pyright: ignore[reportAbstractUsage]


CODES = dataclasses.replace(test_codes.CONFIG, seed_step=7)


@pytest.mark.parametrize(
    ("stage", "total", "said"),
    [
        (RegressionStage(batch_size=0), 9, "batch size must be at least 1, got 0"),
        (RegressionStage(optim=OptimConfig(accumulate=10)), 9, "gradients of 10 steps before its first update"),
        (
            test_codes.CodesStage(CODES, test_codes.GEOMETRY, OptimConfig(), 8),
            7,
            "seeded at step 7, and the training ends",
        ),
        (dataclasses.replace(test_autoencoder.STAGE, adversarial_start=5), 5, "discriminators begin at step 5"),
        (dataclasses.replace(test_lm.STAGE, batch_size=-1), 9, "must be at least 1, got -1"),
    ],
    ids=["batch", "accumulate", "codes", "autoencoder", "lm"],
)
def test_a_training_that_would_end_before_it_began_is_refused(stage, total, said):
    with pytest.raises(UserError, match=said):
        stage.check(total)
    if "must be" not in said:
        stage.check(total + 1)
