"""A trace holds the steps that were asked for, and no others, however the run goes."""

import jax
import pytest
from jax.profiler import ProfileData

from melody_jax.errors import StoppedError, UserError
from melody_jax.watch.goodput import Goodput
from melody_jax.watch.trace import Trace, traced_steps
from tests.train import regression
from tests.train.regression import RegressionStage


def _steps(path):
    """Numbers of the steps in a trace."""
    data = ProfileData.from_file(str(path))
    events = (event for plane in data.planes for line in plane.lines for event in line.events)
    return [dict(event.stats)["step_num"] for event in events if event.name == "train"]


def test_the_trace_is_of_these_steps(tmp_path):
    part = regression.run(tmp_path / "traced", total_steps=10, profile="4:6")
    (trace,) = (tmp_path / "traced" / "regression" / "profile").rglob("*.xplane.pb")
    assert _steps(trace) == [4, 5, 6]
    assert part.id == regression.run(tmp_path / "plain", total_steps=10).id


@pytest.fixture
def traces(monkeypatch):
    """What the profiler was told, in place of it: (whether it starts, batches given out so far)."""
    told, given = [], [0]

    class Counted(regression.SlowBatches):
        def __next__(self):
            given[0] += 1
            return super().__next__()

    monkeypatch.setattr(regression, "SlowBatches", Counted)
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: told.append((True, given[0], folder.name)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: told.append((False, given[0])))
    return told


def test_a_restart_traces_what_is_left_of_the_range(tmp_path, traces, caplog):
    regression.run(tmp_path, total_steps=7, checkpoint_every=7, profile="4:20")
    assert not caplog.records
    assert traces == [(True, 3, "profile"), (False, 7)]  # it ended inside the range
    traces.clear()
    regression.run(tmp_path, total_steps=14, profile="10:12")  # batches 8 and 9 came first, two calibrated the part
    assert traces == [(True, 9 + 2, "profile"), (False, 12 + 2)]
    traces.clear()
    regression.run(tmp_path, total_steps=16, profile="10:12")
    assert not traces
    assert caplog.messages == ["profile: no step of 10:12 is traced by this process, which runs steps 15 to 16"]


def test_a_run_that_stops_inside_the_range_ends_the_trace(tmp_path, traces):
    with pytest.raises(StoppedError, match="step 6"):
        regression.run(tmp_path, stage=RegressionStage(poison_step=6), profile="5:9")
    assert [start for start, *_ in traces] == [True, False]


def test_every_host_has_a_folder(tmp_path, traces, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    profile = Trace(range(1, 2), range(1, 2), tmp_path, lambda: None, Goodput(tmp_path, 0, 1, 0.0))
    with profile.step(1):
        pass
    assert traces == [(True, 0, "host3"), (False, 0)]


@pytest.mark.parametrize("text", ["10", "10:", ":10", "0:3", "15:10", "a:b", "-1:3", "1:2:3", "1.5:3"])
def test_other_ranges_are_refused(text):
    with pytest.raises(UserError, match=f"profile '{text}' is not FIRST:LAST"):
        traced_steps(text)


def test_ranges():
    assert list(traced_steps("10:12")) == [10, 11, 12] and list(traced_steps("3:3")) == [3] and not traced_steps("")
