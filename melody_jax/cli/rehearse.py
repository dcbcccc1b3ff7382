"""`melody rehearse FILE`: a launch on a simulated pod of this machine, and what it would take on its slices."""

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import melody_jax
from melody_jax.cli.arguments import check_positive
from melody_jax.errors import FAILED, UserError

PAGE, LOG = "page.md", "pod.txt"
GRACE = 10.0
"""Seconds for hosts that have lost one of them: they have nothing to save."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the description of the launch, as in configs/launch")
    text = "where its bucket is mounted here (default: the bucket itself, gs://NAME)"
    parser.add_argument("--bucket", metavar="DIR", help=text)
    text = "of the simulated pod (default: as many as the slices have or this machine has cores, two at least)"
    parser.add_argument("--hosts", type=int, help=text)
    parser.add_argument("--mfu", type=float, help="on the slices, as 0.4 (default: an estimate of docs/scaling.md)")
    parser.add_argument("--compiled", metavar="FILE", help="what melody precompile --json printed, in place of --mfu")
    text = f"{PAGE} and {LOG} go to DIR/NAME (default runs/rehearsal)"
    parser.add_argument("--out", default="runs/rehearsal", metavar="DIR", help=text)


def run(args: argparse.Namespace) -> int:
    """Prints the page. Exit code 1: the training that went on after a killed host is another one."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from launch import job as descriptions
    from launch.local_pod import Pod
    from melody_jax.cli import train
    from melody_jax.cli.main import parse
    from melody_jax.operations.rehearsal.rehearse import prepare, rehearse
    from melody_jax.operations.rehearsal.slices import Slices

    check_positive(args, "hosts")
    if args.mfu is not None and not 0 < args.mfu <= 1:
        raise UserError(f"--mfu must be in (0, 1], got {args.mfu}")
    job = descriptions.read(args.file)
    if Path(job.code).resolve() != Path(melody_jax.__file__).parents[1].resolve():
        raise UserError(f"{args.file} launches the code in {job.code}: call `melody rehearse` from there")
    words = job.words(args.bucket or job.bucket)[1:]
    if job.command[:2] != ("melody", "train"):
        raise UserError(f"{args.file}: only a `melody train` can be rehearsed")
    chips, slices = job.chips("tpu")
    facts = Slices(job.tpu.chip, job.tpu.chips * slices, chips, job.tpu.hosts * slices, slices)
    asked = parse(words)
    asked.hardware = "tpu" if asked.hardware == "auto" else asked.hardware
    report = None if args.compiled is None else _compiled(Path(args.compiled))
    folder = Path(args.out).absolute() / job.name
    with contextlib.chdir(job.code):
        what = prepare(job.name, facts, words, train.request_of(asked), args.hosts, args.mfu, report)

        def start(command: Sequence[str], log: TextIO, kill_when: Callable[[], bool] | None) -> int:
            return Pod(command, what.small.hosts, what.small.devices, GRACE, log).run(kill_when)

        page, seamless = rehearse(what, start, folder / LOG)
    (folder / PAGE).write_text(page)
    print(page, end="")
    return 0 if seamless else FAILED


def _compiled(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--compiled {path}: {error}") from None
