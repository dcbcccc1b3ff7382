"""What finetuning teaches a bundle of an instrument that its corpus lacks, and what the bundle forgets meanwhile.

    melody data corpus --name corpus --data_dir data --clips 2400 --seed 0
    python -m tests.benchmarks.finetuning --bundle bundles/tiny --data corpus --data_dir data --out runs/sitar

Renders clips of one General MIDI instrument with the corpus's own tunes, finetunes the bundle on them as a user would
(`melody data folder`, `melody finetune`), and makes music with the bundle before and after: for sentences that ask for the
instrument with tunes it has not been given, and for the corpus's held-out captions. Prints a table: the share of pieces in
which the instrument is heard, by a judge that knows renders of it beside the corpus's families, the share of those which a judge
of the corpus's families alone takes for what it takes real renders of the instrument for, and every measure of `melody
evaluate` for the rest; real renders beside both. Options after `--` go to `melody finetune`.
Five minutes on two cores for the finetuning with its defaults, about a minute for every four prompts.
"""

import argparse
import dataclasses
import itertools
import pathlib
import sys

import numpy as np
import soundfile

from data_pipelines import read
from data_pipelines.corpus import arrange, caption, specs, synth
from data_pipelines.corpus.instruments import BY_NAME, FAMILIES, Instrument
from melody_jax.cli.main import main as melody_command
from melody_jax.evaluate import rates
from melody_jax.evaluate.estimate import Estimate, mean
from melody_jax.evaluate.families import FamilyJudge
from melody_jax.evaluate.truth import Asked, choose_prompts
from melody_jax.generate import Melody

INSTRUMENTS = {
    name: Instrument(program, name, family, low, high)
    for program, name, family, low, high in (
        (104, "sitar", "plucked", 48, 77),
        (13, "xylophone", "mallets", 60, 96),
        (75, "pan flute", "woodwind", 60, 88),
        (22, "harmonica", "organ", 60, 84),
    )
}
JUDGED = 60
"""Renders of the instrument, with other tunes, that the judge is fitted on."""
_OF_SCORES = ("scored", "ensemble")  # their upper line alone is not always a tune


def solos(folder: str, instrument: Instrument, split: str, count: int) -> list[arrange.Arrangement]:
    """Tunes of a split for this instrument alone, none of them twice."""
    assert instrument.name not in BY_NAME, "the corpus has this instrument"
    tunes = {one.tune: one for one in specs.specify(1, {split: 3 * count}, folder) if one.texture not in _OF_SCORES}
    found = []
    for one in itertools.islice(tunes.values(), count):
        solo = dataclasses.replace(one, family=instrument.family, one_family=True, texture="solo", drums=False)
        made = arrange.arrange(solo)
        (track,) = made.tracks
        truth = dataclasses.replace(made.truth, instruments=(instrument.name,))
        tracks = (dataclasses.replace(track, instrument=instrument),)
        found.append(dataclasses.replace(made, tracks=tracks, truth=truth))
    if len(found) < count:
        raise SystemExit(f"the corpus has {len(found)} tunes in its {split} split, {count} are wanted")
    return found


def rendered(arrangements: list[arrange.Arrangement], sample_rate: int, seconds: float) -> np.ndarray:
    """[n, T]"""
    return np.stack([synth.sound(one, synth.default_font(), sample_rate, seconds) for one in arrangements])


def write_clips(
    arrangements: list[arrange.Arrangement], folder: pathlib.Path, sample_rate: int, seconds: float
) -> None:
    """As a user's folder: a sound file and its captions beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    sounds = rendered(arrangements, sample_rate, seconds)
    for index, (arrangement, audio) in enumerate(zip(arrangements, sounds, strict=True)):
        soundfile.write(folder / f"{index:03d}.wav", audio, sample_rate)
        sentences = caption.captions(arrangement, np.random.default_rng(index), midicap=False)
        (folder / f"{index:03d}.txt").write_text("\n".join(sentences) + "\n")


def share(judge: FamilyJudge, pieces: np.ndarray, name: str, beside: np.ndarray) -> Estimate:
    """Of the pieces in which the instrument is heard: a seventh of `beside` at a time, music of all families in whose midst they
    are judged (`families.relative`)."""
    size = max(1, len(beside) // len(FAMILIES))
    heard: list[str] = []
    for at in range(0, len(pieces), size):
        heard += judge.heard(np.concatenate([beside, pieces[at : at + size]]))[len(beside) :]
    return mean(np.array(heard) == name)


def made(bundle: str | pathlib.Path, sentences: list[str], seconds: float) -> np.ndarray:
    """[n, T]: one piece for each sentence."""
    pieces = Melody.load(bundle).generate(sentences, seed=1, seconds=seconds)
    return np.stack([piece.audio for piece in pieces])


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="bundles/tiny")
    parser.add_argument("--data", default="corpus", help="a data set of melody data corpus")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--instrument", choices=INSTRUMENTS, default="sitar")
    parser.add_argument("--clips", type=int, default=20, help="that the bundle is finetuned on")
    parser.add_argument("--prompts", type=int, default=56, help="of each kind")
    parser.add_argument("--seconds", type=float, default=10.0, help="of every piece")
    parser.add_argument("--judge_clips", type=int, default=600, help="of the corpus, that the judge is fitted on")
    argv, further = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    args = parser.parse_args(argv)

    instrument, audio = INSTRUMENTS[args.instrument], read.audio_directory(args.data_dir, args.data)
    scores = str(pathlib.Path(args.data_dir) / "scores")
    geometry = Melody.load(args.bundle).bundle.geometry
    solo = solos(scores, instrument, "train", args.clips + JUDGED)
    own, others = solo[: args.clips], solo[args.clips :]
    write_clips(own, args.out / "clips", geometry.sample_rate, geometry.clip_seconds)
    held_out = solos(scores, instrument, "test", args.prompts)
    sentences = [
        f"a tune for solo {instrument.name} in {caption.key_words(one)}, {one.truth.tempo:.0f} bpm" for one in held_out
    ]

    data_dir = str(args.out / "data")
    folder = ["data", "folder", str(args.out / "clips"), "--name", "own", "--data_dir", data_dir]
    finetune = ["finetune", "--bundle", args.bundle, "--data", "own", "--data_dir", data_dir, "--out", str(args.out)]
    for command in (folder, [*finetune, *further]):
        if melody_command(command):
            raise SystemExit(f"melody {' '.join(command)} failed")

    seen = list(read.read_clips(audio, "train", args.judge_clips))
    form = geometry.sample_rate, geometry.clip_seconds
    known = np.concatenate([np.stack([clip.audio for clip in seen]), rendered(others, *form)])
    labels = [clip.truth.family if clip.truth else "" for clip in seen] + [instrument.name] * len(others)
    judge = FamilyJudge(known, labels, geometry.sample_rate)
    of_corpus = FamilyJudge(known[: len(seen)], labels[: len(seen)], geometry.sample_rate)
    test = list(read.read_clips(audio, "test"))
    chosen = choose_prompts([clip.captions for clip in test], [clip.truth for clip in test], args.prompts)
    captions = [sentence for _, sentence in chosen]
    asked = Asked.by(captions, [test[index].truth for index, _ in chosen])
    music = {
        name: (made(bundle, sentences, args.seconds), made(bundle, captions, args.seconds))
        for name, bundle in (("before", args.bundle), ("after", args.out / "bundle"))
    }
    music["real renders"] = rendered(held_out, *form), np.stack([test[index].audio for index, _ in chosen])
    real, beside = music["real renders"]
    like = max(FAMILIES, key=lambda family: share(of_corpus, real, family, beside).value)
    columns: dict[str, dict[str, Estimate]] = {}
    for name, (own_pieces, rest) in music.items():
        columns[name] = {
            f"{instrument.name}: heard": share(judge, own_pieces, instrument.name, rest),
            f"{instrument.name}: heard as {like} by a judge of the corpus": share(of_corpus, own_pieces, like, rest),
        }
        columns[name] |= {
            f"corpus: {measure}": value
            for measure, value in rates.rates(rest, geometry.sample_rate, asked, judge).items()
        }
    print(
        f"\n{args.clips} clips of {instrument.name}, {len(sentences)} and {len(captions)} prompts, {args.seconds:g} s\n"
    )
    print(f"| measure | {' | '.join(columns)} |\n|---|---|---|---|")
    for measure in columns["before"]:
        print(f"| {measure} | {' | '.join(str(column[measure]) for column in columns.values())} |")


if __name__ == "__main__":
    main(sys.argv[1:])
