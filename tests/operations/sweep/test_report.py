"""The table, the CSV file and the plot of results."""

import csv

import numpy as np
from matplotlib import image

from melody_jax.operations.sweep import report
from melody_jax.operations.sweep.config import Sweep
from melody_jax.operations.sweep.ranges import LogUniform
from melody_jax.operations.sweep.trial import Trial

SPACE = {"optim.OptimConfig.learning_rate": LogUniform(1e-4, 1e-1), "a.width": [1, 2], "b.width": ["x", "y"]}
SWEEP = Sweep(stage="lm", size="tiny", data="x", space=SPACE, kind="random", trials=4)


def trial(number, rate, state, value=None, **changes):
    bindings = dict(zip(SPACE, (repr(rate), "2", "'y'"), strict=True))
    return Trial(number, bindings, state, value, **changes)


TRIALS = [
    trial(0, 0.1, "finished", 2.5, step=30, seconds=12.3, exit_code=0),
    trial(1, 0.0123456, "finished", 1.25, step=30, seconds=9.0, exit_code=0),
    trial(2, 0.001, "failed", seconds=1.0, exit_code=2, message="error: no, that, cannot be"),
    trial(3, 0.002, "pruned", 9.0, step=10, seconds=3.0, exit_code=143),
    trial(4, 0.003, "waiting"),
]


def test_the_table_ranks_and_says_why_trials_failed():
    head, *rows, reason = report.table(SWEEP, TRIALS).splitlines()
    assert head.split() == ["rank", "eval/loss", "learning_rate", "a.width", "b.width", "state", "seconds", "trial"]
    assert rows[0].split() == ["1", "1.25", "0.01235", "2", "y", "finished", "9", "1", TRIALS[1].key]
    assert [row.split()[-2] for row in rows] == ["1", "0", "3", "4", "2"]
    assert reason == f"trial 2 {TRIALS[2].key} failed with exit code 2: error: no, that, cannot be"
    most = Sweep(stage="lm", size="tiny", data="x", space=SPACE, kind="random", trials=4, maximize=True)
    assert [one.number for one in report.ranked(most, TRIALS)] == [0, 1, 3, 4, 2]


def test_the_csv_file_has_everything(tmp_path):
    with report.write_csv(SWEEP, TRIALS, tmp_path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["1", "0", "3", "4", "2"]
    assert [row["rank"] for row in rows] == ["1", "2", "", "", ""]
    assert rows[0]["optim.OptimConfig.learning_rate"] == "0.0123456" and rows[0]["b.width"] == "'y'"
    assert rows[0]["eval/loss"] == "1.25" and rows[0]["step"] == "30" and rows[0]["exit_code"] == "0"
    assert rows[0]["folder"] == f"trials/{TRIALS[1].key}"
    assert rows[4]["message"] == "error: no, that, cannot be" and rows[4]["eval/loss"] == ""


def test_the_plot_shows_the_trials(tmp_path):
    assert report.plot(SWEEP, TRIALS[2:3], tmp_path) is None  # nothing to show

    def blue(trials):
        pixels = image.imread(report.plot(SWEEP, trials, tmp_path))[..., :3]
        return (np.abs(pixels - np.array([0x1F, 0x77, 0xB4]) / 255).sum(-1) < 0.05).any(0)

    path = report.plot(SWEEP, TRIALS, tmp_path)
    assert path == tmp_path / "results.png"
    # points in each of the three columns of panels (the fourth panel is below the first)
    columns = blue(TRIALS)
    third = len(columns) // 3
    assert all(columns[part : part + third].any() for part in (0, third, 2 * third))
    assert not blue([TRIALS[3]]).any()  # a pruned trial is of another colour
