"""A measured figure beside its baseline and its requirement, and the table of them."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

from melody_jax.evaluate.tables import Table, aligned


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
    """

    stage: str
    name: str
    value: float
    baseline: str
    bound: float
    sense: Literal[">=", "<="]

    @property
    def reached(self) -> bool:
        """Whether the requirement holds; a value that is not a number never does."""
        return bool(self.value >= self.bound if self.sense == ">=" else self.value <= self.bound)


def table(figures: Sequence[Figure]) -> str:
    """The figures as an aligned Markdown table."""
    rows = [("stage", "figure", "value", "baseline", "required", "reached")]
    rows += [
        (f.stage, f.name, f"{f.value:.4g}", f.baseline, f"{f.sense} {f.bound:.4g}", "yes" if f.reached else "NO")
        for f in figures
    ]
    return aligned(rows)


def write_report(
    directory: pathlib.Path, figures: Sequence[Figure], facts: dict[str, Any], tables: Sequence[Table] = ()
) -> None:
    """Writes `report.json` and `report.md`: figures, tables, and what was trained for how long on what (`facts`)."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(figure) | {"reached": figure.reached} for figure in figures]
    found = {"figures": rows, "tables": {entry.title: entry.json() for entry in tables}, "facts": facts}
    (directory / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = ["# Held-out figures", "", table(figures), ""]
    for entry in tables:
        lines += [entry.markdown(), ""]
    lines += ["## What was trained, for how long, on what", ""]
    lines += [f"- {name}: {_words(fact)}" for name, fact in facts.items()]
    (directory / "report.md").write_text("\n".join(lines) + "\n")


def _words(fact: Any) -> str:
    if isinstance(fact, dict):
        return ", ".join(f"{key} {_words(value)}" for key, value in fact.items())
    return f"{fact:.4g}" if isinstance(fact, float) else str(fact)
