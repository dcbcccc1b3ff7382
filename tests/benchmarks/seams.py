"""Whether the borders of windows and of repainted spans are heard: what changes across them, against what changes elsewhere.

    python -m tests.benchmarks.seams --bundle bundles/tiny --pieces 12 --overlap 0.5 0.25

Makes pieces with each overlap from the same seeds, and repaints a span of those of the first. Prints a table of what
changes between the tenths of a second before and after a moment: at the borders, at all moments farther than 0.2 s from one,
and the difference with its 95 % interval over pieces; how loud the span is against what was there; and what the sampling
costs. Real clips (--music) have a span repainted, too.
"""

import argparse
import dataclasses
import resource

import jax.numpy as jnp
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from melody_jax import dsp
from melody_jax.evaluate import estimate
from melody_jax.generate import Melody, Result
from melody_jax.generate.compose import Composer
from melody_jax.generate.sound_file import read_music
from melody_jax.generate.windows import starts
from melody_jax.operations.cache import keep_programs

_FRAME = 0.01
_BESIDE = 10
"""Frames that are compared on either side of a moment."""
SENTENCES = [
    f"a {pace} {kind} for {players}"
    for players in ("solo violin", "piano", "flute and guitar", "string quartet")
    for pace, kind in (("slow", "waltz"), ("lively", "reel"), ("moderate", "march in a minor key"))
]


@dataclasses.dataclass(frozen=True)
class Changes:
    """Of a piece, at the beginning of each frame but the first and the last `_BESIDE`.

    Attributes:
      level: between the frames before and those after, dB.
      spectrum: between these, mean over mel bands of the logarithm, nats.
      onset: the largest rise of the spectrum within 40 ms, in mean rises of the piece.
    """

    level: np.ndarray
    spectrum: np.ndarray
    onset: np.ndarray

    @classmethod
    def of(cls, audio: np.ndarray, rate: int) -> "Changes":
        hop = round(_FRAME * rate)
        mel = np.asarray(dsp.log_mel(jnp.asarray(audio), rate, 1024, hop, 64))[: len(audio) // hop]
        power = np.mean(np.square(audio[: len(mel) * hop].reshape(-1, hop)), axis=1)
        before, after = _around(power)
        level = np.abs(10 * np.log10((after + 1e-8) / (before + 1e-8)))
        before, after = _around(mel)
        rise = np.pad(np.maximum(np.diff(mel, axis=0), 0).mean(axis=1), (1, 0))
        highest = sliding_window_view(np.pad(rise, 4), 9).max(axis=-1)[_BESIDE : len(rise) - _BESIDE + 1]
        return cls(level, np.abs(after - before).mean(axis=1), highest / rise.mean())


def _around(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of the frames before and after the beginning of each frame but the outer ones."""
    means = sliding_window_view(values, _BESIDE, axis=0).mean(axis=-1)
    return means[:-_BESIDE], means[_BESIDE:]


def table(name: str, pieces: list[Result], rate: int, borders: list[float]) -> None:
    """Rows of what changes at `borders` (seconds) and elsewhere."""
    at = np.rint(np.array(borders) / _FRAME).astype(int) - _BESIDE
    found = [Changes.of(piece.audio, rate) for piece in pieces]
    away = np.abs(np.arange(len(found[0].level))[:, None] - at[None]).min(axis=1) > 0.2 / _FRAME
    away[:_BESIDE] = away[-_BESIDE:] = False  # ends are faded
    for measure in dataclasses.fields(Changes):
        values = np.stack([getattr(piece, measure.name) for piece in found])
        here, there = values[:, at].mean(axis=1), values[:, away].mean(axis=1)
        words = " | ".join(str(estimate.mean(x)) for x in (here, there, here - there))
        print(f"| {name}: {measure.name} | {words} |", flush=True)


def louder(before: list[np.ndarray], after: list[np.ndarray], rate: int, span: tuple[float, float]) -> str:
    """dB that a span lies above what was there: the mean over pieces, and how far it is off."""
    there = slice(*(round(second * rate) for second in span))
    powers = [[np.mean(np.square(x[there])) + 1e-10 for x in pair] for pair in zip(after, before, strict=True)]
    found = np.array([10 * np.log10(new / old) for new, old in powers])
    return f"{estimate.mean(found)}, absolute {estimate.mean(np.abs(found))}"


def cpu_seconds() -> float:
    """Of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="bundles/tiny")
    parser.add_argument("--pieces", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--overlap", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--music", nargs="+", default=[], help="sound files of at least --seconds")
    parser.add_argument("--span", type=float, nargs=2, default=(4.0, 6.0))
    args = parser.parse_args()
    melody = Melody.load(args.bundle, programs=keep_programs())
    g, rate = melody.bundle.geometry, melody.sample_rate
    sentences = [SENTENCES[index % len(SENTENCES)] for index in range(args.pieces)]

    def generate(rows: int, overlap: float) -> list[Result]:
        return melody.generate(sentences[:rows], seed=0, seconds=args.seconds, batch_size=rows, overlap=overlap)

    made, costs = {}, []
    for rows in (1, args.pieces):
        generate(rows, args.overlap[0])  # compiles; overlaps differ in the number of windows alone
        for overlap in args.overlap:
            begun = cpu_seconds()
            made[overlap] = generate(rows, overlap)
            cost = (cpu_seconds() - begun) / (rows * args.seconds)
            costs.append(f"CPU-seconds a second of audio, {rows} at once, overlap {overlap:g}: {cost:.3f}")
    print(f"{args.pieces} pieces of {args.seconds:g} s, seed 0\n\n| what: measure | there | elsewhere | difference |")
    print("|---|---|---|---|")
    moments = np.ones(g.tokens_in(args.seconds), bool)
    for overlap, pieces in made.items():
        size, kept = Composer(melody.loaded).window(dataclasses.replace(melody.defaults, overlap=overlap))
        borders = [(start + kept) / g.token_rate for start in starts(moments, size, kept)[1:-1]]
        table(f"windows, overlap {overlap:g}", pieces, rate, borders)
    before, span = made[args.overlap[0]], tuple(args.span)
    after = melody.inpaint(before, [span], seed=1, batch_size=args.pieces)
    for name, pieces in (("before", before), ("repainted", after)):
        table(f"{name}, beginning of the span", pieces, rate, [span[0]])
        table(f"{name}, its end", pieces, rate, [span[1]])
    edits = {"pieces": ([piece.audio for piece in before], after)}
    if args.music:
        given = [read_music(file, rate)[: round(args.seconds * rate)] for file in args.music]
        edits["music"] = given, melody.inpaint(given, [span], seed=1, batch_size=len(given))
    for name, (old, new) in edits.items():
        off = louder(old, [piece.audio for piece in new], rate, span)
        costs.append(f"{name}: level of the span above what was there (dB): {off}")
    print("", *costs, sep="\n")


if __name__ == "__main__":
    main()
