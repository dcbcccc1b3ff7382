"""What the input pipeline gives to each stage: batches per second, and how long a training step would wait for one.

    python -m tests.benchmarks.input                                   # the published sizes, on data made for it
    python -m tests.benchmarks.input --per_device 8 32 --step_ms 100
    python -m tests.benchmarks.input --latency_ms 0 10 25 50           # as if every read were answered so late
    python -m tests.benchmarks.input --size tiny --data corpus --data_dir data --model_dir runs/tiny --stage lm mulan

Batches take the way of training (`Batches`, then `place_batch` over the mesh of configs/hardware/tpu.gin) to eight
virtual devices of this host. A timer of `--step_ms` stands for their work, as a step runs while the host reads on.

Without `--data` a tokenised data set of random ids and latents and an audio data set of sine tones are made in a
temporary folder: their contents mean nothing, their sizes are those of the geometry. Files that have just been written
are in memory, so the speed of a disk is not measured. `--latency_ms` delays every read of a file by as much, as storage
at the other end of a network does; its bandwidth is not limited.

Prints a table, medians of `--repeats`: milliseconds of delay; rows and megabytes of a batch; seconds to the first, opening
included; rows per second without a step, those that a host of four chips of v5e:16x16 takes (docs/scaling.md), and
milliseconds of processor time for a batch, which other programs change less; milliseconds the host spends on a batch at the
asked step time (getting and placing it); milliseconds the devices stand still before a step, and their share of all time.
"""

import argparse
import contextlib
import dataclasses
import itertools
import os
import pathlib
import statistics
import tempfile
import time
from typing import NamedTuple

import jax
import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import batches, build, read, records, tokens
from data_pipelines.request import Request
from melody_jax.codes import controls
from melody_jax.errors import UserError
from melody_jax.operations import configuration
from melody_jax.parallel.batch import place_batch
from melody_jax.parallel.mesh import make_mesh
from tests.data_pipelines.tones import write_music
from tests.token_sets import write_tokens

AUDIO, TOKENS = ("autoencoder", "mulan", "semantic", "codes"), ("lm", "dpd")
MADE = "random"  # name of the data sets made here
READY = 4  # batches that may have been prepared before the clock starts
# Rows a second for four chips: rows of a chip and milliseconds of a step of v5e:16x16, all communication overlapped.
NEEDS = {
    name: 4 * rows / (step / 1000)
    for name, (rows, step) in {
        "lm": (16, 96), "mulan": (8, 94), "dpd": (2, 114), "semantic": (4, 56), "autoencoder": (2, 140),
    }.items()
}  # fmt: skip


class Measured(NamedTuple):
    """Of one stage: megabytes of a batch, seconds to the first, rows per second; seconds per batch of processor, host, wait."""

    megabytes: float
    first: float
    rate: float
    processor: float
    host: float
    wait: float


def random_tokens(geometry, count):
    """`count` clips of random ids, with four captions each, and latents."""
    rng = np.random.default_rng(0)
    codes = (geometry.mulan_codes, geometry.mulan_tokens)
    for number in range(count):
        latents = rng.standard_normal((geometry.clip_frames, geometry.latent_channels), np.float32)
        yield tokens.TokenExample(
            id=f"clip{number:06d}",
            family="",
            mulan=rng.integers(codes[0], size=codes[1], dtype=np.int32),
            text=rng.integers(codes[0], size=(4, codes[1]), dtype=np.int32),
            semantic=rng.integers(geometry.semantic_size, size=geometry.clip_semantic, dtype=np.int32),
            latents=latents.astype(np.float16),
            controls=np.zeros(len(controls.SLOTS), np.int32),
        )


def make_data(directory, geometry, count, audio):
    """Tokens, and where `audio` is wanted sounds, of `count` clips under `directory`, by the library's own writers."""
    tfds.disable_progress_bar()
    write_tokens(directory, MADE, {"train": lambda: random_tokens(geometry, count)}, {}, geometry)
    if audio:
        rate, seconds = geometry.sample_rate, geometry.clip_seconds
        music = write_music(pathlib.Path(directory) / "tones", count, seconds, rate)
        form = {"sample_rate": rate, "seconds": seconds, "min_seconds": seconds}
        build.build(MADE, Request("folder", str(music), validation=0, test=0, **form), directory)


@contextlib.contextmanager
def delayed(seconds):
    """Every read of a file takes `seconds` longer."""
    at_once = records._Local.read
    if seconds:
        records._Local.read = lambda *arguments: time.sleep(seconds) or at_once(*arguments)
    try:
        yield
    finally:
        records._Local.read = at_once


def measure(stage, directory, mesh, step, seconds):
    """A `Measured` of `seconds` without and `seconds` with steps of `step` seconds."""
    began = time.perf_counter()
    source = batches.for_stage(stage, stage.geometry, directory, seed=0)
    size = sum(array.nbytes for array in next(source).values())
    first = time.perf_counter() - began
    for _ in range(READY):
        next(source)
    started, busy, count = time.perf_counter(), time.process_time(), 0
    while (taken := time.perf_counter() - started) < seconds:
        jax.block_until_ready(place_batch(next(source), mesh))
        count += 1
    rate, processor = count * stage.batch_size / taken, (time.process_time() - busy) / count
    host, waits, free, before = [], [], 0.0, 0.0
    started = time.perf_counter()
    while len(waits) < 3 or time.perf_counter() - started < seconds:
        asked = time.perf_counter()
        jax.block_until_ready(place_batch(next(source), mesh))
        now = time.perf_counter()
        host.append(now - asked)
        waits.append(max(0.0, now - free))
        before, free = free, max(now, free) + step  # the devices are free when this step ends
        time.sleep(max(0.0, before - now))  # `Steps.dispatch` ends when the step before does
    return Measured(size / 1e6, first, rate, processor, np.mean(host[1:]), np.mean(waits[1:]))


def report(name, args, data_dir, data):
    """The rows of one stage."""
    composed = configuration.compose(configuration.gin_files(name, args.size, "tpu"))
    mesh = make_mesh(composed.run.mesh)
    made_tokens = data_dir if data == MADE else args.model_dir
    directory = read.tokens_directory(made_tokens, data) if name in TOKENS else read.audio_directory(data_dir, data)
    for rows, latency in itertools.product(args.per_device, args.latency_ms):
        stage = dataclasses.replace(composed.stage, batch_size=rows * args.devices)
        step = args.step_ms / 1000
        try:
            with delayed(latency / 1000):
                runs = [measure(stage, directory, mesh, step, args.seconds) for _ in range(args.repeats)]
        except UserError as error:
            print(f"| {name} | {latency:g} | {stage.batch_size} | {error} |")
            return
        median = Measured(*map(statistics.median, zip(*runs)))
        need = f"{NEEDS[name]:.0f}" if name in NEEDS and args.size == "paper" else ""
        print(
            f"| {name} | {latency:g} | {stage.batch_size} | {median.megabytes:.1f} | {median.first:.1f} | {median.rate:.0f} "
            f"| {need} | {1000 * median.processor:.0f} | {1000 * median.host:.1f} | {1000 * median.wait:.1f} "
            f"| {median.wait / (median.wait + step):.1%} |",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="paper", choices=configuration.sizes())
    parser.add_argument("--stage", nargs="+", default=["autoencoder", *TOKENS], choices=AUDIO + TOKENS)
    parser.add_argument("--data", help="name of a data set; one is made where none is given")
    parser.add_argument("--data_dir", default="./data")
    parser.add_argument("--model_dir", default="runs/tiny", help="where the tokens of --data are")
    parser.add_argument("--clips", type=int, default=256, help="of the data set that is made")
    parser.add_argument("--devices", type=int, default=8, help="of this host")
    parser.add_argument("--per_device", type=int, nargs="+", default=[8], help="rows of a batch for one device")
    parser.add_argument("--latency_ms", type=float, nargs="+", default=[0.0], help="by which every read is delayed")
    parser.add_argument("--step_ms", type=float, default=100.0, help="how long the devices compute for a step")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", args.devices)
    with tempfile.TemporaryDirectory() as temporary:
        if not args.data:
            geometry = configuration.compose(configuration.gin_files("lm", args.size, "tpu")).stage.geometry
            make_data(temporary, geometry, args.clips, any(name in AUDIO for name in args.stage))
            print(
                f"{args.clips} clips of random tokens and of tones: their contents mean nothing, only speed is measured"
            )
        cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
        print(f"{cores} cores, load {load:.1f} before the start, {args.devices} devices, step of {args.step_ms:g} ms\n")
        print(
            "| stage | latency (ms) | batch | MB | first (s) | rows/s | need | processor (ms) | host (ms) | waits (ms) | waited |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for name in args.stage:
            report(name, args, args.data_dir if args.data else temporary, args.data or MADE)


if __name__ == "__main__":
    main()
