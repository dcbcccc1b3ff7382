"""Metrics of a run: TensorBoard events, metrics.jsonl, curves.png and a progress bar. Only host 0 writes."""

import contextlib
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Mapping

import jax
import tqdm
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.summary import scalar

from melody_jax import storage
from melody_jax.files import Appended, json_lines, read_lines, whole_file, write_whole
from melody_jax.storage import Path

LINES = "metrics.jsonl"
CURVES = "curves.png"
EVENTS_SECONDS = 600.0
"""How long a file of events is written before the next one is begun: buckets keep only closed files."""


class MetricWriter:
    """Writes metrics by step into a run's folder: `metrics.jsonl` and, under `tensorboard/`, event files.

    A run that goes on from step `step` drops what had been written after it, so that the curves have no seam. Every
    record is on disk when `write` returns.
    """

    def __init__(self, directory: Path, step: int):
        self._lines = self._events = None
        self._directory = directory
        if jax.process_index() == 0:
            self._open(step)

    def _open(self, step: int) -> None:
        """Opens the files to be continued after `step`."""
        directory = self._directory
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / LINES
        kept = [record for record in read_lines(path) if record["step"] <= step]
        self._lines = Appended(write_whole(path, json_lines(kept)))
        (directory / "tensorboard").mkdir(exist_ok=True)
        self._events = self._open_events()
        # tells TensorBoard to forget what older files hold from this step on
        self._add_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One record: the metrics of `split` ("train" or "eval") at `step`."""
        if self._lines is None or self._events is None:
            return
        self._lines.write({"step": step, "split": split, **values})
        for name, value in values.items():
            self._add_event(Event(step=step, summary=scalar(f"{split}/{name}", value)))
        self._events.flush()
        if time.monotonic() - self._since >= EVENTS_SECONDS:
            self._close_events()
            self._events = self._open_events()

    def go_back(self, step: int) -> None:
        """Drops what was written after `step`."""
        if self._lines is not None:
            self.close()
            self._open(step)

    def keep(self) -> None:
        """The records until now will survive a kill, also in a bucket."""
        if self._lines is not None:
            self._lines.keep()

    def close(self) -> None:
        """Closes the files."""
        if self._lines is not None and self._events is not None:
            with contextlib.suppress(OSError):  # of a disk that was full at the last write, which has raised
                self._lines.close()
                self._close_events()

    def _open_events(self) -> EventsWriter:
        """Another file of events: TensorBoard reads all of a folder, one after the other."""
        self._since = time.monotonic()
        self._writing = contextlib.ExitStack()
        folder = self._writing.enter_context(storage.written_folder(self._directory / "tensorboard"))
        # not tensorboardX.SummaryWriter: its thread loses what a kill interrupts, and hides a full disk
        return EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.monotonic_ns()}")

    def _close_events(self) -> None:
        assert self._events is not None
        with self._writing:
            self._events.close()

    def _add_event(self, event: Event) -> None:
        assert self._events is not None
        event.wall_time = time.time()
        self._events.write_event(event)


def plot_curves(directory: Path, title: str) -> Path | None:
    """Draws every metric of `metrics.jsonl` over the steps, train and eval in one panel, into `curves.png`."""
    if jax.process_index() != 0:
        return None
    # Loaded here: drawing happens once per stage, importing matplotlib costs every start a second.
    from matplotlib.figure import Figure

    curves: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for record in read_lines(directory / LINES):
        for name in record.keys() - {"step", "split"}:
            curves[name][record["split"]].append((record["step"], record[name]))
    if not curves:
        return None
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(5 * columns, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, (name, splits) in zip(panels, sorted(curves.items()), strict=False):
        for split, points in sorted(splits.items(), reverse=True):
            panel.plot(*zip(*points, strict=True), label=split, marker="." if len(points) < 30 else None)
        panel.set(title=name, xlabel="step")
        panel.grid(alpha=0.3)
        panel.legend()
    for panel in list(panels):
        panel.set_axis_off()
    figure.suptitle(title)
    with whole_file(directory / CURVES) as scratch:
        figure.savefig(scratch, dpi=90, format="png")
    return directory / CURVES


def progress_bar(name: str, done: int, total: int) -> tqdm.tqdm:
    """Progress with rate and ETA on stderr; in a log file it writes a line a minute at most."""
    return tqdm.tqdm(
        desc=name,
        initial=done,
        total=total,
        unit="step",
        disable=jax.process_index() != 0,
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 60.0,
        smoothing=0.05,
    )


def show(bar: tqdm.tqdm, means: Mapping[str, float]) -> None:
    """Losses beside the progress bar."""
    losses = {name: f"{means[name]:.4g}" for name in sorted(means) if "loss" in name}
    bar.set_postfix(losses, refresh=False)
