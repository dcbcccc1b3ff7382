"""Grids, draws and what a sweep refuses."""

import json

import pytest

from melody_jax.errors import UserError
from melody_jax.operations.sweep.config import Sweep
from melody_jax.operations.sweep.ranges import Integer, LogUniform, Uniform
from melody_jax.operations.sweep.trial import Trial


def sweep(**changes):
    return Sweep(**{"stage": "lm", "size": "tiny", "data": "x", "space": {"a.b": [1, 2]}} | changes)


def test_a_grid_is_the_product_with_the_last_binding_fastest_and_no_duplicates():
    made = sweep(space={"a.b": [1, 2, 1], "C": ["linear", "@c.D()", True]}).proposals()
    assert [tuple(bindings.values()) for bindings in made] == [
        ("1", "'linear'"),
        ("1", "@c.D()"),
        ("1", "True"),
        ("2", "'linear'"),
        ("2", "@c.D()"),
        ("2", "True"),
    ]
    assert list(made[0]) == ["a.b", "C"]
    assert sweep(space={"a.b": [1, 2, 3]}, trials=2).proposals() == [{"a.b": "1"}, {"a.b": "2"}]


def test_draws_follow_the_seed_and_stay_in_their_ranges():
    space = {"u": Uniform(-1.0, 1.0), "l": LogUniform(1e-4, 1.0), "i": Integer(3, 5), "c": [0.0, 0.5]}
    made = sweep(kind="random", trials=200, seed=7, space=space).proposals()
    assert made == sweep(kind="random", trials=200, seed=7, space=space).proposals()
    assert made[:20] == sweep(kind="random", trials=20, seed=7, space=space).proposals()
    assert made != sweep(kind="random", trials=200, seed=8, space=space).proposals()
    numbers = {name: [float(bindings[name]) for bindings in made] for name in space}
    assert all(-1 <= value <= 1 for value in numbers["u"])
    assert sum(value < 1e-2 for value in numbers["l"]) == pytest.approx(100, abs=30)  # half of the logarithms
    assert {bindings["i"] for bindings in made} == {"3", "4", "5"} and set(numbers["c"]) == {0.0, 0.5}


def test_draws_end_where_there_is_nothing_new():
    made = sweep(kind="random", trials=50, space={"a": [1, 2], "b": Integer(0, 1)}).proposals()
    assert len(made) == 4 and len({tuple(bindings.values()) for bindings in made}) == 4


def test_a_trial_is_known_by_its_bindings():
    trial = Trial(0, {"a": "1", "b": "2"})
    assert trial.key == Trial(5, {"b": "2", "a": "1"}).key
    assert trial.key != Trial(0, {"a": "1", "b": "3"}).key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "bayes"}, "kind 'bayes' is none of grid, random, optuna"),
        ({"take": "mean"}, "take 'mean' is none of"),
        ({"space": {}}, "at least one binding"),
        ({"space": {"a.b": []}}, "a.b needs a range or a list of at least one value"),
        ({"space": {"a.b": "12"}}, "a.b needs a range or a list"),
        ({"space": {"a.b": Uniform(0.0, 1.0)}}, "a grid needs a list of values, but a.b is a range"),
        ({"bindings": {"a.b": 1}}, "a.b is both in space and in bindings"),
        ({"trials": -1}, "trials must be a whole number of at least 0"),
        ({"kind": "random"}, "trials must be a whole number of at least 1"),
        ({"pruner": "median"}, 'are for the kind "optuna"'),
        ({"metric": "loss"}, '"split/name"'),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        sweep(**changes)


@pytest.mark.parametrize("made", [lambda: Uniform(1.0, 1.0), lambda: LogUniform(0.0, 1.0), lambda: Integer(5, 2)])
def test_wrong_ranges_are_refused(made):
    with pytest.raises(UserError, match="low"):
        made()


def test_a_folder_belongs_to_one_sweep(tmp_path):
    sweep(bindings={"TOTAL_STEPS": 3}).keep_record(tmp_path)
    sweep(bindings={"TOTAL_STEPS": 3}, space={"d": [4]}).keep_record(tmp_path)  # other trials are welcome
    with pytest.raises(UserError, match="holds trials with bindings"):
        sweep(bindings={"TOTAL_STEPS": 4}).keep_record(tmp_path)
    assert json.loads((tmp_path / "sweep.json").read_text())["bindings"] == {"TOTAL_STEPS": 3}
