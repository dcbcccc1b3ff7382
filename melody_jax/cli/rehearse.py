"""`melody rehearse FILE`: a launch on a simulated pod of this machine, and what it would take on its slices."""

import argparse
import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import melody_jax
from melody_jax.cli import arguments
from melody_jax.errors import FAILED, UserError

EPILOG = "Exit code 1: the training that went on after a killed host is another one."
GRACE = 10.0
"""Seconds for hosts that have lost one of them: they have nothing to save."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the description of the launch, as in configs/launch")
    text = "where its bucket is mounted here (default: the bucket itself, gs://NAME)"
    parser.add_argument("--bucket", metavar="DIR", help=text)
    text = "of the simulated pod (default: as many as the slices have or this machine has cores, two at least)"
    parser.add_argument("--hosts", action=arguments.Positive, help=text)
    parser.add_argument("--mfu", type=float, help="on the slices, as 0.4 (default: an estimate of docs/scaling.md)")
    parser.add_argument("--compiled", metavar="FILE", help="what melody precompile --json printed, in place of --mfu")
    text = "page.md and pod.txt go to DIR/NAME (default runs/rehearsal)"
    parser.add_argument("--out", default="runs/rehearsal", metavar="DIR", help=text)


def run(args: argparse.Namespace) -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"
    from launch import job as descriptions
    from launch.local_pod import Pod
    from melody_jax.cli import train
    from melody_jax.operations.rehearsal.rehearse import prepare, rehearse
    from melody_jax.operations.rehearsal.slices import Slices

    job = descriptions.read(args.file)
    if Path(job.code).resolve() != Path(melody_jax.__file__).parents[1].resolve():
        raise UserError(f"{args.file} launches the code in {job.code}: call `melody rehearse` from there")
    words = job.words(args.bucket or job.bucket)[1:]
    if job.command[:2] != ("melody", "train"):
        raise UserError(f"{args.file}: only a `melody train` can be rehearsed")
    chips, slices = job.chips("tpu")
    facts = Slices(job.tpu.chip, job.tpu.chips * slices, chips, job.tpu.hosts * slices, slices)
    request, folder = train.request_in(words, "tpu"), Path(args.out).absolute() / job.name
    compiled = None if args.compiled is None else Path(args.compiled).absolute()
    with contextlib.chdir(job.code):
        what = prepare(job.name, facts, words, request, args.hosts, args.mfu, compiled)

        def start(command: Sequence[str], log: TextIO, kill_when: Callable[[], bool] | None) -> int:
            return Pod(command, what.small.hosts, what.small.devices, GRACE, log).run(kill_when)

        page, seamless = rehearse(what, start, folder)
    print(page, end="")
    return 0 if seamless else FAILED
