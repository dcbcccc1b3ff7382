"""How the training of the stages in a model folder goes: a table and a plot, read from what the runs have written."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from melody_jax import lock
from melody_jax.bundle.part import INFO_FILE, locate, read_info
from melody_jax.errors import UserError
from melody_jax.files import read_lines, whole_file
from melody_jax.storage import Path
from melody_jax.watch import goodput
from melody_jax.watch.metrics import LINES

PLOT = "report.png"
LOCK = "lock"
"""The lock in a run's folder, held by the process that trains there."""
RATES = ("seconds_per_step", "audio_seconds_per_second", "tokens_per_second", "mfu", "input_wait")
LOST = tuple(kind for kind in (*goodput.KINDS, "redone") if kind != "steps")
"""Kinds of time that are not goodput."""


@dataclasses.dataclass(frozen=True)
class StageReport:
    """What one stage's run has come to. What its files do not tell is None, or absent from a dict.

    Attributes:
      name: of the stage.
      state: "finished", "running" (on this machine) or "interrupted".
      step, total: steps done, and of how many.
      train: step, and last losses of training.
      evaluation: step, and last metrics on held-out data.
      rates: medians of `RATES` over the records of the run (`watch.throughput`).
      memory_bytes: the most that a device held.
      seconds: kind of time -> seconds over all processes (`watch.goodput`).
      goodput: share of steps in them.
      restarts: processes after the first one.
      rollbacks: returns to an earlier checkpoint within a process.
    """

    name: str
    state: str
    step: int
    total: int | None
    train: dict[str, int | float]
    evaluation: dict[str, int | float]
    rates: dict[str, float]
    memory_bytes: float | None
    seconds: dict[str, float]
    goodput: float | None
    restarts: int
    rollbacks: int


def read(model_dir: Path, order: Sequence[str] = ()) -> list[StageReport]:
    """The stages found in a model folder, those of `order` first.

    Raises:
      UserError: there is none.
    """
    folders = [path.parent for path in sorted(model_dir.glob(f"*/{LINES}"))]
    if not folders:
        raise UserError(f"{model_dir} holds no training run: there is no STAGE/{LINES} in it")
    folders.sort(key=lambda folder: order.index(folder.name) if folder.name in order else len(order))
    return [_read_stage(folder) for folder in folders]


def table(reports: Sequence[StageReport]) -> str:
    """A column for each stage; below it, the last metrics of each."""
    rows: list[tuple[str, Callable[[StageReport], str]]] = [
        ("state", lambda stage: stage.state),
        ("steps", lambda stage: f"{stage.step:,}" + (f" of {stage.total:,}" if stage.total else "")),
        ("step time", lambda stage: _number(stage.rates.get("seconds_per_step"), "s")),
        ("audio a second", lambda stage: _number(stage.rates.get("audio_seconds_per_second"), "s")),
        ("tokens a second", lambda stage: _number(stage.rates.get("tokens_per_second"))),
        ("MFU", lambda stage: _percent(stage.rates.get("mfu"))),
        ("input wait", lambda stage: _percent(stage.rates.get("input_wait"))),
        ("memory of a device", lambda stage: _number(stage.memory_bytes and stage.memory_bytes / 1e9, "GB")),
        ("restarts", lambda stage: str(stage.restarts)),
        ("rollbacks", lambda stage: str(stage.rollbacks)),
        ("time", lambda stage: _number(sum(stage.seconds.values()) or None, "s")),
        ("goodput", lambda stage: _percent(stage.goodput)),
        *((f"  {kind}", lambda stage, kind=kind: _percent(_shares(stage).get(kind))) for kind in LOST),
    ]
    cells = [["", *(stage.name for stage in reports)]]
    cells += [[name, *(told(stage) for stage in reports)] for name, told in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        row[0].ljust(widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in cells
    ]
    for stage in reports:
        for split, values in (("train", stage.train), ("eval", stage.evaluation)):
            told = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "step")
            lines += [f"{stage.name} {split}, step {values['step']:,}: {told}"] if told else []
    return "\n".join(lines)


def plot(reports: Sequence[StageReport], model_dir: Path, path: Path) -> None:
    """For each stage: its loss, the time of its steps, and a bar of where the time went.

    Raises:
      UserError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 3 * len(reports)), layout="constrained")
    for (loss, speed, bar), stage in zip(figure.subplots(len(reports), 3, squeeze=False), reports, strict=True):
        records = read_lines(model_dir / stage.name / LINES)
        name = "loss" if "loss" in stage.train else next(iter(stage.train.keys() - {"step"}), "loss")
        for split in ("train", "eval"):
            _draw(loss, records, split, name)
        _draw(speed, records, "train", "seconds_per_step")
        loss.set(title=f"{stage.name}: {name}", xlabel="step")
        loss.legend()
        speed.set(title="seconds a step", xlabel="step", ylim=(0, None))
        _draw_time(bar, stage)
    try:
        with whole_file(path) as scratch:
            figure.savefig(scratch, dpi=90, format="png")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def _read_stage(folder: Path) -> StageReport:
    records, processes = read_lines(folder / LINES), goodput.read(folder)
    train = [record for record in records if record["split"] == "train"]
    last, evaluation = (
        next((record for record in reversed(records) if record["split"] == split), {}) for split in ("train", "eval")
    )
    part = locate(folder)
    done = read_info(part)["training"].get("steps", 0) if (part / INFO_FILE).is_file() else 0
    step = processes[-1]["step"] if processes else last.get("step", 0)
    total = processes[-1]["total"] if processes else done or None
    seconds = goodput.spent(processes)
    medians = {name: [record[name] for record in train if name in record] for name in RATES}
    return StageReport(
        name=folder.name,
        state="running"
        if lock.in_use(folder / LOCK)
        else "finished"
        if done and done >= (total or 0)
        else "interrupted",
        step=step,
        total=total,
        train={
            name: last[name]
            for name in last
            if name == "step" or "loss" in name or name in evaluation.keys() - {"split"}
        },
        evaluation={name: value for name, value in evaluation.items() if name != "split"},
        rates={name: statistics.median(values) for name, values in medians.items() if values},
        memory_bytes=max((record["memory_bytes"] for record in train if "memory_bytes" in record), default=None),
        seconds={kind: round(value, 3) for kind, value in seconds.items()},
        goodput=goodput.share(seconds) if processes else None,
        restarts=max(0, len(processes) - 1),
        rollbacks=sum(record["rollbacks"] for record in processes),
    )


def _shares(stage: StageReport) -> dict[str, float]:
    """Kind of time -> share of all time; {} where nothing is known of it."""
    total = sum(stage.seconds.values())
    return {kind: seconds / total for kind, seconds in stage.seconds.items()} if total else {}


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f} {unit}".rstrip()


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _draw(panel: Any, records: Sequence[Mapping[str, Any]], split: str, name: str) -> None:
    points = [(record["step"], record[name]) for record in records if record["split"] == split and name in record]
    if points:
        panel.plot(*zip(*points, strict=True), label=split, marker="." if len(points) < 30 else None)
    panel.grid(alpha=0.3)


def _draw_time(panel: Any, stage: StageReport) -> None:
    """Shares of the time, one beside the other; those that can be seen have their name."""
    left = 0.0
    for index, (kind, share) in enumerate(sorted(_shares(stage).items(), key=lambda item: item[0] != "steps")):
        label = f"{kind} {share:.0%}" if share >= 0.01 else None
        panel.barh(0, share, left=left, color="tab:green" if kind == "steps" else f"C{(index + 2) % 10}", label=label)
        left += share
    told = "not recorded" if stage.goodput is None else f"goodput {stage.goodput:.0%}"
    panel.set(title=f"where the time went: {told}", xlim=(0, 1), ylim=(-1.5, 0.6), yticks=[])
    if left:
        panel.legend(loc="lower center", ncols=3, fontsize="small", frameon=False)
