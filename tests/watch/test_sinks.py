"""Metrics in Weights & Biases and MLflow: what is called of the two packages, and that no failure of theirs ends a run."""

import logging
import sys
import types

import pytest

from melody_jax.errors import UserError
from melody_jax.train.run import Run
from melody_jax.watch.journal import Journal
from melody_jax.watch.sinks import Sinks
from melody_jax.watch.throughput import Throughput


class Rates(Throughput):
    """The same ones always."""

    def __init__(self):
        pass

    def rates(self, interval, step):
        return {"goodput": 0.5}


@pytest.fixture
def calls(monkeypatch):
    """What is called of stand-ins for the packages: (name, arguments) each. A name in `calls.broken` raises."""
    made = types.SimpleNamespace(said=[], broken=set())

    def recorded(name, result=None):
        def call(*args, **kwargs):
            made.said.append((name, *args, kwargs) if kwargs else (name, *args))
            if name in made.broken:
                raise RuntimeError("the service does not answer")
            return result

        return call

    run = types.SimpleNamespace(**{name: recorded(f"run.{name}") for name in ("define_metric", "log", "finish")})
    wandb = types.SimpleNamespace(init=recorded("init", run))
    mlflow = types.SimpleNamespace(**{name: recorded(name) for name in ("start_run", "log_metrics", "end_run")})
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return made


def journal(directory, *sinks):
    return Journal(directory, "lm", 0, 2, Rates(), "", lambda: None, sinks=sinks)


def test_the_journal_writes_to_weights_and_biases(calls, tmp_path):
    for start in range(2):
        one = journal(tmp_path / "mine" / "lm", "wandb")
        one.log(start + 1, {"loss": 2.0})
        one.write(start + 1, "eval", {"loss": 3.0})
        one.close()
    (init, *_), first, second = calls.said[0], calls.said[: len(calls.said) // 2], calls.said[len(calls.said) // 2 :]
    assert init == "init" and first[0][1]["name"] == "mine/lm" and first[0][1]["resume"] == "allow"
    assert first[0] == second[0], "a run that goes on is the same run there"
    assert first[1:] == [
        ("run.define_metric", "*", {"step_metric": "step"}),
        ("run.log", {"step": 1, "train/loss": 2.0, "train/goodput": 0.5}),
        ("run.log", {"step": 1, "eval/loss": 3.0}),
        ("run.finish",),
    ]


def test_runs_of_equal_names_in_other_folders_are_others(calls, tmp_path):
    for folder in ("a", "b"):
        Sinks(["wandb"], tmp_path / folder / "mine" / "lm")
    ids = [call[1]["id"] for call in calls.said if call[0] == "init"]
    assert len(set(ids)) == 2


def test_the_journal_writes_to_mlflow(calls, tmp_path):
    one = journal(tmp_path / "mine" / "lm", "mlflow")
    one.log(1, {"loss": 2.0})
    one.close()
    assert calls.said == [
        ("start_run", {"run_name": "mine/lm"}),
        ("log_metrics", {"train/loss": 2.0, "train/goodput": 0.5}, {"step": 1}),
        ("end_run",),
    ]


def test_none_is_opened_by_default_nor_on_another_host(calls, tmp_path, monkeypatch):
    journal(tmp_path / "lm").close()
    monkeypatch.setattr("jax.process_index", lambda: 1)
    sinks = Sinks(["wandb", "mlflow"], tmp_path / "lm")
    sinks.write(1, "train", {"loss": 1.0})
    sinks.close()
    assert calls.said == []


@pytest.mark.parametrize("broken", ["init", "run.log", "run.finish"])
def test_a_failure_is_said_once_and_stops_neither_the_run_nor_the_other(calls, tmp_path, caplog, broken):
    calls.broken.add(broken)
    with caplog.at_level(logging.WARNING):
        sinks = Sinks(["wandb", "mlflow"], tmp_path / "lm")
        for step in (1, 2):
            sinks.write(step, "train", {"loss": 1.0})
        sinks.close()
    (warning,) = caplog.messages
    assert warning == "wandb: metrics no longer go there: RuntimeError: the service does not answer"
    assert [call[0] for call in calls.said].count("log_metrics") == 2
    assert [call[0] for call in calls.said].count(broken) == 1


def test_a_package_that_is_not_installed_is_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    Sinks(["mlflow"], tmp_path / "lm")
    assert "pip install 'melody_jax[mlflow]'" in caplog.text


def test_a_sink_that_does_not_exist_is_refused_before_the_run():
    with pytest.raises(UserError, match="'tensorbord' is none of wandb, mlflow"):
        Run(total_steps=1, sinks=("tensorbord",))
