"""Trials as processes: stand-ins for `melody train` that log, fail, stop and go on."""

import json
import os
import signal
import threading

import pytest

from melody_jax.errors import UserError
from melody_jax.operations.sweep.trial import claim, folder
from tests.operations.sweep.process import start, sweep_of
from tests.train import processes

FAST = {"steps": 3}
SLOW = {"steps": 20, "delay": 0.1}


def starts(directory, trial):
    """The process ids of those who started the trial."""
    return (folder(directory, trial) / "lm" / "starts").read_text().split()


def steps_saved(directory, trial):
    return int((folder(directory, trial) / "lm" / "saved").read_text())


def begin(directory, **fields):
    """A sweep in a process of its own."""
    return processes.start("tests.operations.sweep.process", directory, json.dumps({"bindings": SLOW} | fields))


def test_a_grid_runs_and_a_failed_trial_is_not_fatal(tmp_path):
    sweep = sweep_of({"x": [3.0, 1.0, 2.0], "fail": [0, 1]}, bindings=FAST)
    trials, stopped = start(sweep, tmp_path, workers=3)
    assert stopped == 0 and [trial.number for trial in trials] == list(range(6))
    assert [trial.state for trial in trials] == ["finished", "failed"] * 3
    assert [trial.value for trial in trials[::2]] == pytest.approx([3 + 1 / 3, 1 + 1 / 3, 2 + 1 / 3])
    assert all(trial.step == 30 and trial.exit_code == 0 and trial.seconds > 0 for trial in trials[::2])
    assert {(trial.exit_code, trial.message) for trial in trials[1::2]} == {(1, "error: it went wrong")}


def test_the_last_value_and_the_greatest(tmp_path):
    assert start(sweep_of({"x": [5.0]}, maximize=True, bindings=FAST), tmp_path / "best")[0][0].value == 6.0
    last = start(sweep_of({"x": [5.0]}, maximize=True, take="last", bindings=FAST), tmp_path / "last")[0][0]
    assert last.value == pytest.approx(5 + 1 / 3)


def test_a_trial_without_the_metric_has_failed(tmp_path):
    (trial,), _ = start(sweep_of({"silent": [1]}), tmp_path)
    assert (trial.state, trial.exit_code, trial.message) == ("failed", 0, "it logged no eval/loss")


def test_a_second_start_skips_what_has_ended_and_takes_new_trials(tmp_path):
    first, _ = start(sweep_of({"x": [1.0, 2.0], "fail": [0, 1]}, bindings=FAST), tmp_path)
    second, _ = start(sweep_of({"x": [1.0, 4.0, 2.0], "fail": [0, 1]}, bindings=FAST), tmp_path)
    assert [trial.state for trial in second] == ["finished", "failed"] * 3
    assert all(len(starts(tmp_path, trial)) == 1 for trial in second)
    assert [second[0], second[1]] == [first[0], first[1]] and second[4].number == 4


def test_a_signal_stops_the_trials_which_save_and_go_on(tmp_path):
    sweep = sweep_of({"x": [1.0, 2.0, 3.0]}, bindings={"steps": 30, "delay": 0.05})
    threading.Timer(0.8, os.kill, (os.getpid(), signal.SIGTERM)).start()
    trials, stopped = start(sweep, tmp_path, workers=2)
    assert stopped == signal.SIGTERM
    assert [(trial.state, trial.exit_code) for trial in trials] == [("stopped", 143)] * 2 + [("waiting", None)]
    saved, seconds = steps_saved(tmp_path, trials[0]), trials[0].seconds
    assert 0 < saved < 30
    again, stopped = start(sweep, tmp_path, workers=3)
    assert stopped == 0 and [trial.state for trial in again] == ["finished"] * 3
    assert len(starts(tmp_path, again[0])) == 2 and steps_saved(tmp_path, again[0]) == 30
    assert again[0].seconds > seconds + 0.05 * (30 - saved) - 0.1  # of both processes
    assert again[0].value == pytest.approx(1 + 1 / 30)


@pytest.mark.parametrize("kind", ["grid", "optuna"])
def test_a_killed_sweep_goes_on_and_no_trial_runs_twice_at_a_time(tmp_path, kind):
    fields = {"space": {"x": [1.0, 2.0, 3.0]}, "kind": kind, "trials": 3}
    killed = begin(tmp_path, **fields)

    def saved():
        return sorted(int(path.read_text() or 0) for path in tmp_path.glob("trials/*/lm/saved"))

    processes.wait_until(killed, lambda: len(saved()) == 2 and saved()[0] >= 3)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    # its trial lives on, with the lock of its folder
    left = next(path.parents[1] for path in tmp_path.glob("trials/*/lm/saved") if int(path.read_text() or 0) < 20)
    assert claim(left) is None
    trials, _ = start(sweep_of(fields["space"], kind=kind, trials=3, bindings=SLOW), tmp_path)
    assert sorted(trial.bindings["x"] for trial in trials) == ["1.0", "2.0", "3.0"]
    assert [trial.state for trial in trials] == ["finished"] * 3
    assert sorted(len(starts(tmp_path, trial)) for trial in trials) == [1, 1, 2]
    assert all(steps_saved(tmp_path, trial) == 20 for trial in trials)


def test_a_bad_trial_is_pruned(tmp_path):
    """One that would never end by itself, after three that do."""
    sweep = sweep_of(
        {"x": (0.0, 100.0)},
        kind="optuna",
        trials=4,
        pruner="median",
        startup_trials=2,
        warmup_steps=20,
        bindings={"steps": 10, "delay": 0.05, "limit": 60.0},
    )
    trials, _ = start(sweep, tmp_path)
    assert [trial.state for trial in trials] == ["finished"] * 3 + ["pruned"]
    bad = trials[3]
    assert bad.exit_code == 143 and bad.value > 60 and bad.message == ""
    # it has saved, and was not given up in the warm-up
    assert steps_saved(tmp_path, bad) >= bad.step // 10 >= 2


def test_optuna_without_a_pruner_runs_each_choice_once_and_ends(tmp_path):
    sweep = sweep_of({"x": [1.0, 2.0], "fail": [0, 1]}, kind="optuna", trials=20, bindings=FAST)
    trials, _ = start(sweep, tmp_path, workers=2)
    assert len(trials) == 4 and len({trial.key for trial in trials}) == 4
    assert sorted(trial.state for trial in trials) == ["failed"] * 2 + ["finished"] * 2
    assert all(len(starts(tmp_path, trial)) == 1 for trial in trials)


def test_two_processes_share_a_study(tmp_path):
    """As two hosts do: a folder each, one storage."""
    storage = f"sqlite:///{tmp_path}/shared.db"
    fields = {"kind": "optuna", "trials": 6, "storage": storage, "bindings": {"steps": 2, "delay": 0.3}}
    hosts = [begin(tmp_path / name, space={"x": {"ends": [0.0, 9.0]}}, **fields) for name in ("one", "two")]
    for host in hosts:
        code, errors = processes.finish(host)
        assert code == 0, errors
    made = [{path.name for path in (tmp_path / name / "trials").iterdir()} for name in ("one", "two")]
    assert all(made) and not made[0] & made[1] and len(made[0] | made[1]) == 6
    # a third finds nothing left to do, and sees what both have done
    trials, _ = start(sweep_of({"x": (0.0, 9.0)}, **fields), tmp_path / "three")
    assert [trial.state for trial in trials] == ["finished"] * 6
    assert {trial.key for trial in trials} == made[0] | made[1]
    assert not (tmp_path / "three" / "trials").exists()


def test_what_optuna_cannot_use_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="its storage cannot be used"):
        start(sweep_of({"x": [1]}, kind="optuna", trials=1, storage=f"sqlite:///{tmp_path}/no/folder.db"), tmp_path)
    start(sweep_of({"x": [1.0]}, kind="optuna", trials=1, bindings=FAST), tmp_path)
    with pytest.raises(UserError, match="its space is not the one"):
        start(sweep_of({"x": [2.0, 3.0]}, kind="optuna", trials=2, bindings=FAST), tmp_path)
