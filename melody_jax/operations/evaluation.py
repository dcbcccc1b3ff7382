"""Evaluation of a bundle: its clips and tokens opened, judges fitted, every table measured."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines import read, tokens
from melody_jax.bundle.bundle import Bundle
from melody_jax.errors import UserError
from melody_jax.evaluate import links, protocol
from melody_jax.evaluate.figures import Figure
from melody_jax.evaluate.probe import MusicProbe
from melody_jax.evaluate.protocol import Columns
from melody_jax.evaluate.tables import Table
from melody_jax.evaluate.truth import Truth
from melody_jax.generate import Melody
from melody_jax.operations.tokens import ensure

FEWEST = 4  # clips that anything can be said of
JUDGE_CLIPS = 600  # real renders that judges and probes are fitted on


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured.

    Attributes:
      bundle: folder of the models.
      data: name of the audio data set, of whose test split the clips are taken.
      data_dir: where audio data sets lie.
      tokens_dir: folder whose tokens are used, or are made where they are missing.
      clips: how many held-out ones.
      links: how many of these go through every link.
      prompts: how many held-out captions music is made for.
      seed: of the music.
    """

    bundle: str
    data: str
    data_dir: str
    tokens_dir: str
    clips: int
    links: int
    prompts: int
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found: `facts` are what was trained for how long on what, and what music was sampled with."""

    figures: list[Figure]
    tables: list[Table]
    facts: dict[str, Any]


def evaluate(asked: Evaluation) -> Report:
    """Every figure of a bundle's models on held-out clips.

    Raises:
      UserError: no bundle, no data set, or too few held-out clips.
    """
    bundle = Bundle.load(asked.bundle)
    audio = read.audio_directory(asked.data_dir, asked.data)
    held_out = list(read.read_clips(audio, "test", asked.clips))
    if len(held_out) < FEWEST:
        raise UserError(f"{audio}: {len(held_out)} clips in the test split are too few to measure on")
    melody = Melody(bundle)
    models = melody.loaded
    folder = ensure(bundle.parts, asked.tokens_dir, asked.data, asked.data_dir, tokenizer=bundle.tokenizer)
    train = _columns(tokens.read_tokens(folder, "train"), latents=False)
    test = _columns(tokens.read_tokens(folder, "test")).of([clip.id for clip in held_out])
    figures = [
        *protocol.representations(models, held_out, bundle.geometry.sample_rate),
        *protocol.token_models(models, train, test),
    ]
    tables, judges, probe = [], None, None
    if (asked.links or asked.prompts) and all(clip.truth for clip in held_out):
        real = _real([clip for clip in read.read_clips(audio, "train", JUDGE_CLIPS) if clip.truth], train)
        judges, probe = links.Judges(real.audio, real.truth, bundle.geometry.sample_rate), _probe(real, bundle)
        if rows := protocol.balanced([clip.truth for clip in held_out], asked.links):
            linked = [held_out[row] for row in rows], test.take(rows)
            found, more = protocol.notes_at_every_link(
                bundle.geometry, melody, models, real, *linked, judges, asked.seed
            )
            tables, figures = [found], figures + more
    if asked.prompts:
        judge = judges and judges.family
        everything = held_out, test, train, judge, probe, asked.prompts, asked.seed
        found, more = protocol.text_to_music(bundle.geometry, melody, models, *everything)
        tables, figures = [*tables, found], figures + more
    facts: dict[str, Any] = {"data": read.metadata(audio)["id"][:12], "held-out clips": len(held_out)}
    facts["sampled with"] = dataclasses.asdict(melody.defaults)
    facts |= {name: {"parameters": part.parameters} | _training(part.training) for name, part in bundle.parts.items()}
    return Report(figures, tables, facts)


def _real(clips: Sequence[Any], tokens: Columns) -> protocol.Real:
    truth = Truth.of([clip.truth for clip in clips])
    return protocol.Real(np.stack([clip.audio for clip in clips]), truth, tokens.of([clip.id for clip in clips]))


def _probe(real: protocol.Real, bundle: Bundle) -> MusicProbe:
    codes = bundle.geometry.semantic_codes
    written = links.by_level(real.tokens.semantic, bundle.geometry.semantic_levels, codes)
    return MusicProbe(written, real.audio, real.truth.leaders, codes, bundle.geometry.sample_rate)


def _columns(examples: Any, latents: bool = True) -> Columns:
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
