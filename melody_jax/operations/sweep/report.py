"""What the trials of a sweep reached: a table, a CSV file and a plot."""

import ast
import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from melody_jax.files import write_whole
from melody_jax.operations.sweep.config import Sweep
from melody_jax.operations.sweep.ranges import LogUniform, Uniform
from melody_jax.operations.sweep.trial import Trial, folder

CSV = "results.csv"
PLOT = "results.png"
_ORDER = ("finished", "pruned", "running", "stopped", "waiting", "failed")
_COLOURS = {"finished": "tab:blue", "pruned": "tab:orange"}


def ranked(sweep: Sweep, trials: Sequence[Trial]) -> list[Trial]:
    """Finished trials from the best to the worst, then the pruned ones likewise, then the others."""

    def place(trial: Trial) -> tuple:
        value = math.inf if trial.value is None else -trial.value if sweep.maximize else trial.value
        return _ORDER.index(trial.state), value, trial.number

    return sorted(trials, key=place)


def table(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """Rank, value, bindings, state and seconds of every trial; below it, why trials failed."""
    names = _short_names(list(sweep.space))
    rows = [["rank", sweep.metric, *names.values(), "state", "seconds", "trial"]]
    for rank, trial in enumerate(ranked(sweep, trials), start=1):
        rows.append(
            [
                str(rank) if trial.state == "finished" else "",
                "" if trial.value is None else f"{trial.value:.5g}",
                *(_short(trial.bindings.get(name, "")) for name in names),
                trial.state,
                f"{trial.seconds:.0f}",
                f"{trial.number} {trial.key}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [
        f"trial {trial.number} {trial.key} failed with exit code {trial.exit_code}: {trial.message}"
        for trial in trials
        if trial.state == "failed"
    ]
    return "\n".join(lines)


def write_csv(sweep: Sweep, trials: Sequence[Trial], directory: Path) -> Path:
    """One row for each trial, in the table's order, with whole numbers and the bindings' full names."""
    head = ["rank", "trial", "state", sweep.metric, "step", "seconds", "exit_code", "message", "folder", *sweep.space]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(head)
    for rank, trial in enumerate(ranked(sweep, trials), start=1):
        result = [rank if trial.state == "finished" else "", trial.number, trial.state, trial.value, trial.step]
        result += [trial.seconds, trial.exit_code, trial.message, folder(Path(), trial)]
        writer.writerow([*result, *(trial.bindings.get(name, "") for name in sweep.space)])
    write_whole(directory / CSV, text.getvalue())
    return directory / CSV


def plot(sweep: Sweep, trials: Sequence[Trial], directory: Path) -> Path | None:
    """The metric of finished and pruned trials, by trial with the best so far, and against each binding."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = [trial for trial in sorted(trials, key=lambda trial: trial.number) if _is_shown(trial)]
    if not shown:
        return None
    columns = min(3, 1 + len(sweep.space))
    rows = math.ceil((1 + len(sweep.space)) / columns)
    figure = Figure(figsize=(4.5 * columns, 3.2 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    _scatter(panels[0], shown, [trial.number for trial in shown])
    finished = [trial for trial in shown if trial.state == "finished"]
    best = [ranked(sweep, finished[: count + 1])[0].value for count in range(len(finished))]
    panels[0].step([trial.number for trial in finished], best, where="post", color="black", lw=1, label="best so far")
    panels[0].set(xlabel="trial", ylabel=sweep.metric)
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].legend()
    for panel, (name, short) in zip(panels[1:], _short_names(list(sweep.space)).items(), strict=False):
        values = [_number(trial.bindings[name]) for trial in shown]
        if not all(isinstance(value, (int, float)) for value in values):
            values = [_short(trial.bindings[name]) for trial in shown]
        _scatter(panel, shown, values)
        panel.set(xlabel=short, ylabel=sweep.metric)
        allowed = sweep.space[name]
        if isinstance(allowed, Uniform):
            scale = "log" if isinstance(allowed, LogUniform) else "linear"
            panel.set(xscale=scale, xlim=(allowed.low, allowed.high))
    for panel in panels[1 + len(sweep.space) :]:
        panel.set_axis_off()
    figure.savefig(directory / PLOT, dpi=90)
    return directory / PLOT


def _is_shown(trial: Trial) -> bool:
    return trial.state in _COLOURS and trial.value is not None and math.isfinite(trial.value)


def _scatter(panel: Any, trials: Sequence[Trial], places: Sequence[Any]) -> None:
    panel.grid(alpha=0.3)
    for state, colour in _COLOURS.items():
        points = [(x, trial.value) for x, trial in zip(places, trials, strict=True) if trial.state == state]
        if points:
            panel.scatter(*zip(*points, strict=True), color=colour, s=18, label=state, zorder=3, clip_on=False)


def _number(value: str) -> Any:
    """The number that gin text stands for; other text as it is."""
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    return value if isinstance(literal, bool) else literal


def _short(value: str) -> str:
    """Gin text for a table: numbers with four digits, strings without quotes."""
    literal = _number(value)
    return f"{literal:.4g}" if isinstance(literal, float) else str(literal)


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Binding -> its last word, or all of it where two bindings end alike."""
    last = [name.rpartition(".")[2] for name in names]
    return {name: word if last.count(word) == 1 else name for name, word in zip(names, last, strict=True)}
