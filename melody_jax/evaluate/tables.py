"""Tables of figures: rows and columns by name, as Markdown and as JSON."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from melody_jax.evaluate.estimate import Estimate

Cell = Estimate | float | str | None


@dataclasses.dataclass(frozen=True)
class Table:
    """A titled table.

    Attributes:
      title: a heading.
      corner: what the rows are.
      columns: names.
      rows: name of each row and its cells by column; what is missing or None was not measured.
      note: a paragraph on what is seen.
    """

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Cell]]
    note: str = ""

    def markdown(self) -> str:
        """Heading, note and aligned table."""
        lines = [f"## {self.title}", "", *([self.note, ""] if self.note else [])]
        return "\n".join([*lines, aligned(self.lines())])

    def lines(self) -> list[tuple[str, ...]]:
        """Its cells in words; the first line is its head."""
        rows = [(name, *(words(cells.get(column)) for column in self.columns)) for name, cells in self.rows.items()]
        return [(self.corner, *self.columns), *rows]

    def json(self) -> dict[str, dict[str, Any]]:
        """Cells by row and column."""
        return {
            name: {column: plain(cells[column]) for column in self.columns if cells.get(column) is not None}
            for name, cells in self.rows.items()
        }

    def records(self) -> list[dict[str, Any]]:
        """Its lines of the CSV: one for each cell that was measured."""
        return [
            {"table": self.title, "measure": name, "of": column} | _record(cells[column])
            for name, cells in self.rows.items()
            for column in self.columns
            if cells.get(column) is not None
        ]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of equally wide columns; the first row is its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def words(cell: Cell) -> str:
    """A cell as people read it."""
    if cell is None or isinstance(cell, float) and math.isnan(cell):
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _record(cell: Cell) -> dict[str, Any]:
    if isinstance(cell, Estimate):
        return plain(cell)
    return {"remark": cell} if isinstance(cell, str) else {"value": plain(cell)}


def plain(cell: Any) -> Any:
    """A cell, or a list of numbers, as JSON can hold it: without nan and infinity."""
    if isinstance(cell, Estimate):
        return {name: plain(value) for name, value in dataclasses.asdict(cell).items()}
    if isinstance(cell, tuple):
        return [plain(value) for value in cell]
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell
