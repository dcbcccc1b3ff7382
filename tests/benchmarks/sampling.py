"""Real-time factor of sampling: seconds of work per second of music, from a bundle.

    python -m tests.benchmarks.sampling --bundle bundles/tiny --batch 1 4 16 --steps 10 20

Prints a table: the first call (compilation included), then the median of the calls after it, in all and by model. Below
1 the music is made faster than it plays.
"""

import argparse
import time

import jax
import numpy as np

from melody_jax.generate import Melody

PROMPT = "a slow waltz for solo violin in D minor"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="bundles/tiny")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    melody = Melody.load(args.bundle)
    print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}, {args.seconds:g} s of music")
    print("| prompts | steps | first call (s) | call (s) | real-time factor | of it: models |")
    print("|---|---|---|---|---|---|")
    for rows in args.batch:
        for steps in args.steps:
            calls, laps = [], []
            for repeat in range(args.repeats + 1):
                started = time.perf_counter()
                made = melody.generate([PROMPT] * rows, seed=repeat, seconds=args.seconds, steps=steps, batch_size=rows)
                calls.append(time.perf_counter() - started)
                laps.append(made[0].times)
            music = rows * args.seconds
            call = float(np.median(calls[1:]))
            parts = {name: float(np.median([lap[name] for lap in laps[1:]])) / music for name in laps[0]}
            words = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
            print(f"| {rows} | {steps} | {calls[0]:.1f} | {call:.2f} | {call / music:.3f} | {words} |", flush=True)


if __name__ == "__main__":
    main()
