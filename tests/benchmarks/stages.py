"""Seconds per training step of each stage, float32 beside bfloat16, from random weights on random data.

    python -m tests.benchmarks.stages --size tiny --steps 20 [--stage dpd ...]

Prints a table: parameters, compile seconds, seconds per step in both precisions and their ratio. The two programs take
their steps in turns, so that what else the machine does falls on both.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from melody_jax import graph
from melody_jax.operations import configuration

PRECISIONS = {"float32": "cpu", "bfloat16": "cpu_amx"}


def random_batch(stage, seed=0):
    """Noise for sounds and latents, zeros for ids (every id is legal, and none is cheaper)."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        floating = jnp.issubdtype(shape.dtype, jnp.floating)
        return jnp.asarray(0.1 * rng.standard_normal(shape.shape) if floating else np.zeros(shape.shape), shape.dtype)

    return {name: draw(shape) for name, shape in stage.batch_shapes().items()}


def prepare(name, size, hardware):
    """(parameters, compile seconds, a function that takes one step)."""
    stage = configuration.compose(configuration.gin_files(name, size, hardware)).stage
    state = nn.unbox(jax.jit(stage.init)(jax.random.PRNGKey(0)))
    batch = random_batch(stage)
    started = time.perf_counter()
    step = jax.jit(stage.train_step, donate_argnums=0).lower(state, batch).compile()
    seconds = time.perf_counter() - started
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def take():
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    return count, seconds, take


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", choices=configuration.sizes())
    trained = graph.NETWORKS  # codes need two trained parents, and no gradients
    parser.add_argument("--stage", nargs="+", default=trained, choices=trained)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}, size {args.size}")
    print("| stage | parameters | compile (s) | float32 (s/step) | bfloat16 (s/step) | ratio |")
    print("|---|---|---|---|---|---|")
    for name in args.stage:
        prepared = {precision: prepare(name, args.size, hardware) for precision, hardware in PRECISIONS.items()}
        times = {precision: [] for precision in PRECISIONS}
        for number in range(args.steps + 1):
            for precision, (_, _, take) in prepared.items():
                started = time.perf_counter()
                take()
                if number:
                    times[precision].append(time.perf_counter() - started)
        count, compiled, _ = prepared["bfloat16"]
        wide, narrow = (float(np.median(times[precision])) for precision in PRECISIONS)
        print(f"| {name} | {count:,} | {compiled:.1f} | {wide:.3f} | {narrow:.3f} | {wide / narrow:.2f} |", flush=True)
        jax.clear_caches()


if __name__ == "__main__":
    main()
