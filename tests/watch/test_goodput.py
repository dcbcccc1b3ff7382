"""Where time goes: every second belongs to one kind, over restarts and rollbacks, and a kill loses little of it."""

import json
import time

import pytest

from melody_jax.watch import goodput
from melody_jax.watch.goodput import Goodput


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until `clock(seconds)` moves it."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def test_every_second_belongs_to_one_kind(tmp_path, clock):
    run = Goodput(tmp_path, step=0, total=9, began=990.0)
    clock(2)
    for number in (1, 2, 3):
        with run.spent("input"):
            clock(1)
        with run.step(number):
            clock(5 if number == 1 else 3)
        clock(0.5)  # the log
    window = run.take()
    assert (window.steps, window.seconds, window.input) == (2, 9.5, 2.0)  # the log of step 1 among it
    with run.spent("evaluation"):
        clock(4)
        with run.spent("checkpointing"):
            clock(1)
        clock(1)
    with run.spent("input"):
        clock(1)
    with run.step(4):
        clock(2)
    window = run.take()
    assert (window.steps, window.seconds, window.input) == (1, 3.0, 1.0)
    with run.spent("finish"):
        clock(7)
    run.close()
    (record,) = goodput.read(tmp_path)
    spent = {"startup": 12, "compilation": 5, "input": 4, "steps": 9.5, "evaluation": 5, "checkpointing": 1}
    assert record["seconds"] == {**spent, "profiling": 0, "finish": 7}
    assert window.goodput == pytest.approx(9.5 / 36.5)
    assert goodput.share(goodput.spent([record])) == pytest.approx(9.5 / 43.5)


def _process(first, step, taken, steps=0.0, **seconds):
    spent = dict.fromkeys(goodput.KINDS, 0.0) | {"steps": steps} | seconds
    return {"process": time.time(), "first": first, "step": step, "taken": taken, "seconds": spent}


def test_steps_that_did_not_last_are_no_goodput():
    """Killed at 15 after the checkpoint of 10; killed again at 14; that checkpoint could not be read, the one of 8 could."""
    processes = [
        _process(0, 15, taken=15, steps=30.0),
        _process(10, 14, taken=6, steps=6.0, startup=4.0),  # two of them before a rollback
        _process(8, 20, taken=12, steps=12.0, input=8.0),
    ]
    spent = goodput.spent(processes)
    assert spent["redone"] == pytest.approx(7 * 2.0 + 6 * 1.0)
    assert spent["steps"] == pytest.approx(8 * 2.0 + 12 * 1.0)
    assert sum(spent.values()) == 60.0
    assert goodput.share(spent) == pytest.approx(28 / 60)


def test_a_rollback_is_counted_in_the_process_that_made_it(tmp_path, clock):
    """Behind the step that the process itself went on from."""
    run = Goodput(tmp_path, step=2, total=9, began=1000.0)
    for number in (3, 4, 5, 6):
        with run.step(number):
            clock(1)
    run.go_back(1)
    with run.step(2):
        clock(1)
    run.take()
    (record,) = goodput.read(tmp_path)
    assert (record["first"], record["step"], record["taken"], record["rollbacks"]) == (1, 2, 5, 1)
    assert goodput.spent([record])["redone"] == pytest.approx(4 * 4 / 5)  # four of five steps, four seconds in all


def test_what_was_logged_before_a_kill_is_there(tmp_path, clock):
    killed = Goodput(tmp_path, step=0, total=9, began=1000.0)
    for number in (1, 2):
        with killed.step(number):
            clock(1)
        killed.take()
    path = tmp_path / goodput.FILE
    path.write_text(path.read_text() + '{"process": 1000.0, "st')  # and it never closes
    clock(60)
    second = Goodput(tmp_path, step=1, total=9, began=1060.0)
    assert len(path.read_text().splitlines()) == 1  # one line a process
    with second.step(2):
        clock(1)
    second.close()
    records = goodput.read(tmp_path)
    assert [(record["first"], record["step"]) for record in records] == [(0, 2), (1, 2)]
    assert [json.loads(line) for line in path.read_text().splitlines()] == records


def test_other_hosts_write_nothing(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(goodput.jax, "process_index", lambda: 1)
    run = Goodput(tmp_path, step=0, total=9, began=1000.0)
    with run.step(1):
        clock(1)
    run.take()
    run.close()
    assert not list(tmp_path.iterdir())


def test_the_process_is_older_than_its_tests_and_younger_than_a_day():
    assert 0 < time.time() - goodput.process_began() < 86_400
