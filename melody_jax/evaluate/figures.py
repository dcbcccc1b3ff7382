"""A measured figure beside its baseline and its requirement, and the table of them."""

import csv
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from melody_jax.errors import UserError
from melody_jax.evaluate.tables import Table, aligned, plain
from melody_jax.files import write_whole

CSV_COLUMNS = (
    "bundle",
    "table",
    "measure",
    "of",
    "value",
    "low",
    "high",
    "clips",
    "required",
    "reached",
    "remark",
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """One row of the report.

    Attributes:
      stage: what was measured: a stage's name, or "text-to-music".
      name: the quantity, with its unit.
      value: as measured.
      baseline: what it is held against, in words with its value, e.g. "bigram 41.2".
      bound: the value to reach.
      sense: ">=" or "<=": on which side of `bound` the value must lie.
      interval: 95 % of the value over clips (evaluate.estimate), infinite if there is one; None where it is not known.
      lacks: what there was too little of to measure it; "" where it was measured.
    """

    stage: str
    name: str
    value: float
    baseline: str
    bound: float
    sense: Literal[">=", "<="]
    interval: tuple[float, float] | None = None
    lacks: str = ""

    @classmethod
    def unmeasured(cls, stage: str, name: str, lacks: str) -> "Figure":
        """A figure for which there was too little of something."""
        return cls(stage, name, math.nan, "-", math.nan, ">=", lacks=lacks)

    @property
    def reached(self) -> bool:
        """Whether the requirement holds; a value that is not a number never does."""
        return bool(self.value >= self.bound if self.sense == ">=" else self.value <= self.bound)

    @property
    def missed(self) -> bool:
        """Whether it was measured and the requirement does not hold."""
        return not self.lacks and not self.reached

    def cells(self) -> tuple[str, ...]:
        """Its row of the table."""
        if self.lacks:
            return (self.stage, self.name, f"not measured: {self.lacks}", "-", "-", "-")
        sure = ""
        if self.interval is not None and math.isfinite(self.value):
            low, high = self.interval
            sure = f" ({low:.3g} to {high:.3g})" if math.isfinite(high - low) else " (one clip)"
        required, reached = f"{self.sense} {self.bound:.4g}", "yes" if self.reached else "NO"
        return (self.stage, self.name, f"{self.value:.4g}{sure}", self.baseline, required, reached)

    def record(self) -> dict[str, Any]:
        """Its line of the CSV."""
        low, high = self.interval or (None, None)
        required, reached = ("", "") if self.lacks else (f"{self.sense} {self.bound:.4g}", self.reached)
        found = {"table": "figures", "measure": f"{self.stage}: {self.name}", "value": self.value, "low": low}
        found |= {"high": high, "required": required, "reached": reached, "remark": self.lacks or self.baseline}
        return {name: plain(value) for name, value in found.items()}

    def json(self) -> dict[str, Any]:
        """Its fields, as JSON can hold them: what is not finite is null."""
        fields = dataclasses.asdict(self) | {"reached": None if self.lacks else self.reached}
        return {name: plain(value) for name, value in fields.items()}


def table(figures: Sequence[Figure]) -> str:
    """The figures as an aligned Markdown table."""
    return aligned(lines(figures))


def lines(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """The figures in words; the first line is the head of their table."""
    head = ("stage", "figure", "value (95 % interval)", "baseline", "required", "reached")
    return [head, *(figure.cells() for figure in figures)]


def as_csv(found: Mapping[str, tuple[Sequence[Figure], Sequence[Table]]]) -> str:
    """Figures and tables of one or several bundles by name as CSV, one line for each number; what is not finite is empty."""
    text = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for bundle, (figures, tables) in found.items():
        records = [*(figure.record() for figure in figures), *(line for entry in tables for line in entry.records())]
        writer.writerows({"bundle": bundle} | record for record in records)
    return text.getvalue()


def write_report(
    directory: pathlib.Path,
    figures: Sequence[Figure],
    facts: dict[str, Any],
    tables: Sequence[Table] = (),
    bundle: str = "",
) -> None:
    """Writes `report.json` and `report.md`: figures, tables, and what was trained for how long on what (`facts`); and
    `report.csv`: the numbers alone, beside the name of the bundle.

    Raises:
      UserError: they cannot be written.
    """
    found = {
        "figures": [figure.json() for figure in figures],
        "tables": {entry.title: entry.json() for entry in tables},
        "facts": facts,
    }
    text = ["# Held-out figures", "", table(figures), ""]
    for entry in tables:
        text += [entry.markdown(), ""]
    text += ["## What was trained, for how long, on what", ""]
    text += [f"- {name}: {_words(fact)}" for name, fact in facts.items()]
    _write(
        directory,
        {
            "report.json": json.dumps(found, indent=1) + "\n",
            "report.md": "\n".join(text) + "\n",
            "report.csv": as_csv({bundle: (figures, tables)}),
        },
    )


def write_comparison(
    directory: pathlib.Path, found: Mapping[str, tuple[Sequence[Figure], Sequence[Table]]], side_by_side: Table
) -> None:
    """Writes `comparison.md` and `comparison.csv`, of bundles by name.

    Raises:
      UserError: they cannot be written.
    """
    _write(directory, {"comparison.md": side_by_side.markdown() + "\n", "comparison.csv": as_csv(found)})


def _write(directory: pathlib.Path, files: Mapping[str, str]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_whole(directory / name, content)
    except OSError as error:
        raise UserError(f"the report cannot be written to {directory}: {error.strerror or error}") from None


def _words(fact: Any) -> str:
    if isinstance(fact, dict):
        return ", ".join(f"{key} {_words(value)}" for key, value in fact.items())
    return f"{fact:.4g}" if isinstance(fact, float) else str(fact)
