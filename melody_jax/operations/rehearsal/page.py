"""What a rehearsal found, as Markdown."""

import dataclasses
import os
from collections.abc import Mapping

from melody_jax.operations.rehearsal.forecast import HOURS, Forecast, Whole
from melody_jax.operations.rehearsal.prepare import Rehearsal
from melody_jax.operations.rehearsal.trial import TOLERANCE, Trial


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of this machine and this storage.

    Attributes:
      rows: a second, that the input gives one host.
      written: bytes a second, that one process writes.
    """

    rows: float
    written: float


def page(what: Rehearsal, predicted: Forecast, shown: Trial, measured: Measured, whole: Mapping[str, Whole]) -> str:
    """All of it."""
    sections = [_heading(what), _pod(what, shown), _slices(what, predicted, shown, measured)]
    return "\n\n".join([*sections, *([_publication(what, whole)] if whole else [])]) + "\n"


def _heading(what: Rehearsal) -> str:
    slices, stage = what.slices, what.config.stage
    return (
        f"# Rehearsal of {what.name}\n\n{stage.name} of size {what.request.size}, global batch {stage.batch_size:,}, mesh "
        f"`{what.config.run.mesh}`, on {slices.chips:,} chips ({slices.kind}, {slices.hosts:,} hosts, "
        f"{slices.slices} {'slice' if slices.slices == 1 else 'slices'}). Storage: `{what.request.model_dir}`."
    )


def _pod(what: Rehearsal, shown: Trial) -> str:
    small, slices = what.small, what.slices
    if small.hosts == slices.hosts:
        hosts = f"{small.hosts} hosts, as many as the slices have"
    else:
        hosts = f"{small.hosts} hosts where the slices have {slices.hosts:,}: more do not fit here"
    result = (
        "no seam" if shown.seamless else f"**a seam**: more than {TOLERANCE:g} apart, or a step missing or logged twice"
    )
    lines = [
        ("pod", f"{hosts}; {small.devices} devices each"),
        ("in place of the training", f"mesh `{small.mesh}`, batch {small.batch}, configs/rehearsal/{what.request.stage}.gin"),
        ("a host was killed", f"after the checkpoint of step {shown.resumed} was whole"),
        ("the second start", f"went on from step {shown.resumed} to {shown.steps}, first step after {shown.restart_seconds:.0f} s"),
        ("against a run without interruption", f"losses differ by {shown.difference:.1e} at most: {result}"),
        ("a step here", f"{shown.step_seconds * 1e3:,.0f} ms"),
    ]  # fmt: skip
    return f"## On this machine\n\n{_table(('what', 'found'), lines)}"


def _slices(what: Rehearsal, predicted: Forecast, shown: Trial, measured: Measured) -> str:
    slices, run = what.slices, what.config.run
    source = "the compiler's estimate" if what.step else "assumed, docs/scaling.md" if what.mfu is None else "given"
    enough = measured.rows / predicted.rows
    advice = "" if enough >= 1 else ": **steps would wait**, unless a host there has more cores or faster storage"
    checkpoint = shown.checkpoint_seconds + predicted.written / measured.written
    every = run.checkpoint_every * predicted.step
    slow = "" if checkpoint < every else ": **the next one would wait for it**"
    lines = [
        ("model FLOPs of a step", f"{predicted.step_flops / 1e12:,.4g} T"),
        ("MFU", f"{predicted.mfu:.1%} ({source})"),
        ("a step", f"{predicted.step * 1e3:,.3g} ms"),
        ("rows a second that a host must be given", f"{predicted.rows:,.0f}"),
        ("rows a second that the input gives", f"{measured.rows:,.0f} on {os.cpu_count()} cores here, {enough:.2g} times that"
                                               f"{advice}"),
        ("state on a chip", f"{predicted.state / 1e9:.3f} GB of {slices.chip.hbm_bytes / 1e9:g} GB, without activations"),
        ("a checkpoint", f"{predicted.checkpoint / 1e9:.2f} GB, {predicted.checkpoint / slices.chips / 1e6:.1f} MB a chip; "
                         f"one host writes {predicted.written / 1e9:.2f} GB at most"),
        ("time of a checkpoint on this storage", f"{checkpoint:.1f} s ({measured.written / 1e6:,.0f} MB/s of one process, and "
                                                 f"{shown.checkpoint_seconds:.1f} s for a small one), every {_time(every)}{slow}"),
        ("the run", f"{run.total_steps:,} steps, {_time(predicted.run)}, {_count(predicted.chip_hours)} chip-hours"),
    ]  # fmt: skip
    return f"## On the slices\n\n{_table(('what', 'forecast'), lines)}"


def _publication(what: Rehearsal, whole: Mapping[str, Whole]) -> str:
    rows = [
        (
            name if stage.steps else "tokens of all music",
            f"{stage.steps:,}" if stage.steps else "",
            f"{stage.batch:,}" if stage.steps else "",
            f"{stage.passes:.2f}",
            f"{stage.flops / 1e18:,.0f}",
            f"{stage.mfu:.1%}",
            f"{stage.chip_hours:,.0f}",
        )
        for name, stage in whole.items()
    ]
    rows.append(("together", "", "", "", "", "", f"{sum(stage.chip_hours for stage in whole.values()):,.0f}"))
    names = (
        "stage",
        "steps",
        "batch",
        f"passes over {HOURS:,} h",
        "EFLOPs",
        "MFU assumed",
        f"chip-hours ({what.slices.kind})",
    )
    return (
        f"## The whole training of the publication, {HOURS:,} hours of music\n\nSteps and batches of configs/sizes/paper; MFU: "
        "the lowest estimate without overlap in docs/scaling.md, for tokens that of the slowest model. Not counted: "
        "the codes, evaluation, compilation, restarts.\n\n" + _table(names, rows)
    )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 3600:,.1f} hours" if seconds >= 7200 else f"{seconds / 60:,.0f} minutes"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _table(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [names, ("---",) * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
