"""`melody evaluate`: every model of a bundle on held-out music, each figure beside its baseline."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melody_jax.errors import UserError

if TYPE_CHECKING:
    from melody_jax.evaluate.protocol import Columns

FEWEST = 4  # clips that anything can be said of
JUDGE_CLIPS = 600  # real renders that judges and probes are fitted on


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("evaluate")
    parser.set_defaults(run=run)
    parser.add_argument("--bundle", required=True, metavar="DIR", help="what `melody export` wrote")
    parser.add_argument(
        "--data", required=True, metavar="NAME", help="name of the audio data set; its test split counts"
    )
    parser.add_argument("--data_dir", default="./data", metavar="DIR", help="where audio data sets lie")
    parser.add_argument("--out", required=True, metavar="DIR", help="report.md, report.json and, if need be, tokens")
    parser.add_argument("--model_dir", metavar="DIR", help="where the bundle was trained, to use its tokens again")
    parser.add_argument("--clips", type=int, default=200, help="held-out clips (default 200)")
    parser.add_argument("--links", type=int, default=32, help="of these, clips taken through every link (default 32)")
    parser.add_argument("--prompts", type=int, default=60, help="held-out captions to make music for (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the music (default 0)")


def run(args: argparse.Namespace) -> int:
    """Prints the tables and writes them; exit code 1 where a figure is missed.

    Raises:
      UserError: no bundle, no data set, or too few held-out clips.
    """
    if args.clips < FEWEST or args.prompts < 0 or args.links < 0:
        raise UserError(f"--clips must be at least {FEWEST}, --links and --prompts at least 0")
    try:
        from data_pipelines import read, tokens
    except ImportError as error:
        raise UserError(
            f"melody evaluate needs more than the base install ({error}); `make install` installs it"
        ) from None
    from melody_jax.bundle.bundle import Bundle
    from melody_jax.evaluate import links, protocol
    from melody_jax.evaluate.figures import table, write_report
    from melody_jax.evaluate.probe import MusicProbe
    from melody_jax.evaluate.truth import Truth
    from melody_jax.generate import Melody
    from melody_jax.operations.tokens import ensure

    bundle = Bundle.load(args.bundle)
    audio = read.audio_directory(args.data_dir, args.data)
    held_out = list(read.read_clips(audio, "test", args.clips))
    if len(held_out) < FEWEST:
        raise UserError(f"{audio}: {len(held_out)} clips in the test split are too few to measure on")
    melody = Melody(bundle)
    models = melody.loaded
    folder = ensure(bundle.parts, args.model_dir or args.out, args.data, args.data_dir, tokenizer=bundle.tokenizer)
    train = _columns(tokens.read_tokens(folder, "train"), latents=False)
    test = _columns(tokens.read_tokens(folder, "test")).of([clip.id for clip in held_out])
    figures = [
        *protocol.representations(models, held_out, bundle.geometry.sample_rate),
        *protocol.token_models(models, train, test),
    ]
    tables, judges, probe = [], None, None
    if (args.links or args.prompts) and all(clip.truth for clip in held_out):
        seen = [clip for clip in read.read_clips(audio, "train", JUDGE_CLIPS) if clip.truth]
        real = protocol.Real(
            np.stack([clip.audio for clip in seen]),
            Truth.of([clip.truth for clip in seen]),
            train.of([clip.id for clip in seen]),
        )
        judges = links.Judges(real.audio, real.truth, bundle.geometry.sample_rate)
        levels, codes = bundle.geometry.semantic_levels, bundle.geometry.semantic_codes
        one = [truth.family if len(truth.families) == 1 else "" for truth in (clip.truth for clip in seen)]
        written = links.by_level(real.tokens.semantic, levels, codes)
        probe = MusicProbe(written, real.audio, one, codes, bundle.geometry.sample_rate)
        if rows := protocol.balanced([clip.truth for clip in held_out], args.links):
            linked = [held_out[row] for row in rows], test.take(rows)
            found, more = protocol.notes_at_every_link(
                bundle.geometry, melody, models, real, *linked, judges, args.seed
            )
            tables, figures = [found], figures + more
    if args.prompts:
        judge = judges and judges.family
        everything = held_out, test, train, judge, probe, args.prompts, args.seed
        found, more = protocol.text_to_music(bundle.geometry, melody, models, *everything)
        tables, figures = [*tables, found], figures + more
    facts: dict[str, Any] = {"data": read.metadata(audio)["id"][:12], "held-out clips": len(held_out)}
    facts["sampled with"] = dataclasses.asdict(melody.defaults)
    facts |= {name: {"parameters": part.parameters} | _training(part.training) for name, part in bundle.parts.items()}
    print(*(entry.markdown() for entry in tables), table(figures), sep="\n\n")
    write_report(Path(args.out), figures, facts, tables)
    missed = [f"{figure.stage}: {figure.name}" for figure in figures if not figure.reached]
    if missed:
        print(f"missed: {'; '.join(missed)}")
    return 1 if missed else 0


def _columns(examples: Any, latents: bool = True) -> "Columns":
    from melody_jax.evaluate.protocol import Columns

    rows = [row if latents else {**row, "latents": None} for row in examples]
    arrays = {name: np.stack([row[name] for row in rows]) for name in ("mulan", "semantic", "controls")}
    return Columns(
        ids=[row["id"] for row in rows],
        families=[row["family"] for row in rows],
        text=np.stack([row["text"][0] for row in rows]),  # of the first caption
        latents=np.stack([row["latents"] for row in rows]) if latents else None,
        **arrays,
    )


def _training(training: dict[str, Any]) -> dict[str, Any]:
    return {name: training[name] for name in ("steps", "seconds", "batch_size", "data", "device") if name in training}
