"""What autoencoders leave of music, and what their decoders cost: magnitudes, inverse-STFT heads, HiFi-GAN.

    python -m tests.benchmarks.decoders --part bundles/tiny/autoencoder runs/istft/autoencoder --data corpus --data_dir data

Takes unseen clips whose notes are known through each autoencoder. Prints the measures of "Notes at every link" (`melody
evaluate`), the log-mel distance, how far the quietest tenth of mel values lies above the clip's own (noise between partials
and between notes), the share of clips with a click, and CPU-seconds a second of audio, compilation apart.
"""

import argparse
import functools
import time

import jax
import numpy as np

from data_pipelines import read
from melody_jax import dsp
from melody_jax.autoencoder.loss import log_mel_distance
from melody_jax.bundle.bundle import locate
from melody_jax.bundle.part import load_part
from melody_jax.evaluate import faults, links
from melody_jax.evaluate.columns import balanced, batched
from melody_jax.evaluate.estimate import mean
from melody_jax.evaluate.truth import Truth
from melody_jax.operations.evaluation import JUDGE_CLIPS
from melody_jax.system.system import System

QUIET = 10
"""Percentile of a clip's mel values that counts as its floor."""
DECIBELS = 20 / np.log(10)


def floors(audio: np.ndarray, rate: int) -> np.ndarray:
    """dB of the quietest mel values of each clip [n]."""
    mel = batched(jax.jit(lambda x: dsp.log_mel(x, rate, 2048, 512, 80)), audio)
    return DECIBELS * np.percentile(mel, QUIET, axis=(1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", required=True)
    parser.add_argument("--data", default="corpus")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--clips", type=int, default=32)
    args = parser.parse_args()
    folder = read.audio_directory(args.data_dir, args.data)
    rate = read.metadata(folder)["sample_rate"]
    seen = [clip for clip in read.read_clips(folder, "train", JUDGE_CLIPS) if clip.truth]
    unseen = list(read.read_clips(folder, "test", 10 * args.clips))
    unseen = [unseen[row] for row in balanced([clip.truth for clip in unseen], args.clips)]
    judges = links.Judges(np.stack([clip.audio for clip in seen]), Truth.of([clip.truth for clip in seen]), rate)
    audio, truth = np.stack([clip.audio for clip in unseen]), Truth.of([clip.truth for clip in unseen])
    distance = jax.jit(lambda x, y: log_mel_distance(x, y, rate))
    decoded, costs = {}, {}
    for path in args.part:
        part = load_part(locate(path))
        system = System({"autoencoder": part.config}, part.geometry)
        through = jax.jit(functools.partial(system.reconstruct, part.params))
        batched(through, audio)  # compiles
        begun = time.process_time()
        decoded[path] = batched(through, audio)
        costs[path] = (time.process_time() - begun) / audio.size * rate
    table = links.link_table(audio, decoded, truth, judges)
    print(f"{table.markdown()}\n\n| autoencoder | log-mel distance | floor (dB) | with a click | CPU-s a second |")
    print("|---|---|---|---|---|")
    for path, found in decoded.items():
        cells = (
            mean(batched(distance, audio, found)),
            mean(floors(found, rate) - floors(audio, rate)),
            mean(np.array([len(faults.clicks(piece)) > 0 for piece in found])),
        )
        print(f"| {path} | {' | '.join(map(str, cells))} | {costs[path]:.3f} |")


if __name__ == "__main__":
    main()
