"""Several bundles side by side: one table of all that was measured of each."""

import math
from collections.abc import Mapping, Sequence

from melody_jax.evaluate.estimate import Estimate
from melody_jax.evaluate.figures import Figure
from melody_jax.evaluate.rates import MADE, REAL, TARGET
from melody_jax.evaluate.tables import Table, words

Interval = tuple[float, float] | None
APART = " *"


def compare(found: Mapping[str, tuple[Sequence[Figure], Sequence[Table]]]) -> Table:
    """Figures and tables of bundles by name, on the same clips, as one table with a column for each bundle.

    Marked is what lies apart from the first bundle's: two 95 % intervals without a common point. Where they have one, the
    difference may be chance.
    """
    cells = {bundle: _cells(*measured) for bundle, measured in found.items()}
    first, *_ = cells.values()
    names = dict.fromkeys(name for column in cells.values() for name in column)
    rows = {
        name: {
            bundle: text + (APART if _apart(interval, first.get(name, ("", None))[1]) else "")
            for bundle, column in cells.items()
            if name in column
            for text, interval in [column[name]]
        }
        for name in names
    }
    note = (
        f"Of the same held-out clips.{APART} marks what lies apart from the first bundle's beyond the 95 % intervals, which "
        "then have no point in common; what has no interval is never marked."
    )
    return Table("Bundles side by side", "measure", tuple(cells), rows, note)


def _cells(figures: Sequence[Figure], tables: Sequence[Table]) -> dict[str, tuple[str, Interval]]:
    """Words and interval of every number that says something of the bundle."""
    cells = {f"{figure.stage}: {figure.name}": (figure.cells()[2], figure.interval) for figure in figures}
    for table in tables:
        for row, columns in table.rows.items():
            for column in table.columns:
                cell = columns.get(column)
                if cell is None or column in (REAL, TARGET):
                    continue
                name = row if column == MADE else f"{row}: {column}"
                cells[name] = words(cell), cell.interval if isinstance(cell, Estimate) else None
    return cells


def _apart(one: Interval, other: Interval) -> bool:
    if one is None or other is None or not all(map(math.isfinite, (*one, *other))):
        return False
    return one[1] < other[0] or other[1] < one[0]
