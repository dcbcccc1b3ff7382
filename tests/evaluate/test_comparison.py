"""Bundles side by side: a column each, and a mark where the intervals of two have no common point."""

import math

from melody_jax.evaluate.comparison import compare
from melody_jax.evaluate.estimate import Estimate
from melody_jax.evaluate.figures import Figure
from melody_jax.evaluate.tables import Table


def _measured(value: float, loss: float, **rows):
    key = Estimate(value, value - 0.1, value + 0.1, 30)
    cells = {"key": {"made": key, "real renders": Estimate(0.9, 0.8, 1.0, 30), "target": ">= 0.64"}} | rows
    table = Table("Text to music", "measure", ("made", "real renders", "target"), cells)
    return [Figure("lm", "loss", loss, "bigram 4", 4.0, "<=", (loss - 0.2, loss + 0.2))], [table]


def test_what_lies_apart_from_the_first_bundle_is_marked():
    found = {"old": _measured(0.5, 3.0), "near": _measured(0.65, 3.1), "far": _measured(0.75, 2.5)}
    table = compare(found)
    assert table.columns == ("old", "near", "far") and list(table.rows) == ["lm: loss", "key"]
    marked = {row: [str(cell).endswith(" *") for cell in cells.values()] for row, cells in table.rows.items()}
    assert marked == {"lm: loss": [False, False, True], "key": [False, False, True]}
    assert table.rows["key"]["far"] == "0.750 (0.65 to 0.85) *" and "real renders" not in table.markdown()


def test_what_one_clip_or_no_interval_says_is_never_marked():
    one = {"made": Estimate(0.1, -math.inf, math.inf, 1)}
    found = {
        "old": _measured(0.5, 3.0, distance={"made": 1.0}, gap={"made": Estimate(0.9, 0.8, 1.0, 5)}),
        "new": _measured(0.5, 3.0, distance={"made": 9.0}, gap=one, beats={"made": 1.0}),
    }
    table = compare(found)
    assert table.rows["distance"] == {"old": "1", "new": "9"} and table.rows["gap"]["new"] == "0.100 (one clip)"
    assert table.rows["beats"] == {"new": "1"} and "| beats" in table.markdown()
