"""Training examples per second that the input pipeline gives to each stage, beside a training step's need.

    python -m tests.benchmarks.input --data corpus --data_dir data --model_dir runs/tiny --size tiny

Prints a table: examples per second of one host reading alone, after the first batch, and seconds of music per second.
Stages that read tokens are left out where `--model_dir` has none.
"""

import argparse
import time

from data_pipelines import batches, read
from melody_jax.cli import configuration
from melody_jax.errors import UserError

AUDIO, TOKENS = ("autoencoder", "mulan", "semantic", "codes"), ("lm", "dpd")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--data_dir", default="./data")
    parser.add_argument("--model_dir", default="runs/tiny")
    parser.add_argument("--size", default="tiny", choices=configuration.sizes())
    parser.add_argument("--seconds", type=float, default=10.0, help="of reading, for each stage")
    args = parser.parse_args()
    print("| stage | batch | first batch (s) | examples per second | seconds of music per second |")
    print("|---|---|---|---|---|")
    for name in (*AUDIO, *TOKENS):
        stage = configuration.compose(configuration.gin_files(name, args.size, "cpu")).stage
        try:
            tokens = name in TOKENS
            directory = read.tokens_directory(args.model_dir, args.data) if tokens else None
            directory = directory or read.audio_directory(args.data_dir, args.data)
            read.metadata(directory)
        except UserError as error:
            print(f"| {name} | {stage.batch_size} | {error} | | |")
            continue
        started = time.perf_counter()
        source = batches.for_stage(stage, stage.geometry, directory, seed=0)
        next(source)
        first, started, count = time.perf_counter() - started, time.perf_counter(), 0
        while (taken := time.perf_counter() - started) < args.seconds:
            next(source)
            count += stage.batch_size
        rate = count / taken
        music = rate * getattr(stage, "clip_seconds", 0.0) or rate * stage.geometry.clip_seconds
        print(f"| {name} | {stage.batch_size} | {first:.1f} | {rate:.0f} | {music:.0f} |", flush=True)


if __name__ == "__main__":
    main()
