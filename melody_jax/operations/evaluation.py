"""Evaluating a bundle: held-out clips and their tokens come from the data pipelines, judges are fitted, all is measured."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import read, tokens
from melody_jax.bundle.bundle import Bundle
from melody_jax.errors import UserError
from melody_jax.evaluate import judge_models, links
from melody_jax.evaluate.columns import Columns, Real, balanced
from melody_jax.evaluate.figures import Figure
from melody_jax.evaluate.models import representations, token_models
from melody_jax.evaluate.page import Heard
from melody_jax.evaluate.players import Made, make_music
from melody_jax.evaluate.probe import MusicProbe
from melody_jax.evaluate.tables import Table
from melody_jax.evaluate.text_to_music import text_to_music
from melody_jax.evaluate.truth import Truth
from melody_jax.generate import Melody
from melody_jax.geometry import Geometry
from melody_jax.graph import READ_AUDIO
from melody_jax.operations.tokens import ensure, present
from melody_jax.storage import Path

JUDGE_CLIPS = 600
"""Real renders that judges and probes are fitted on."""
ON_PAGE = 12
"""Prompts whose pieces can be listened to."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is evaluated on what.

    Attributes:
      bundle: its folder.
      data, data_dir: name of the audio data set, whose test split counts, and where data sets lie.
      token_dir: where the tokens are made, if need be.
      model_dir: where the bundle's tokens may lie already.
      clips: held-out clips.
      links: of these, clips taken through every link; 0 for no table of links.
      prompts: held-out captions to make music for; 0 for none.
      seed: of the music.
      judges: name -> path of other models whose embeddings tell how far made music lies from real music.
    """

    bundle: str
    data: str
    data_dir: str
    token_dir: str
    model_dir: str | None = None
    clips: int = 200
    links: int = 32
    prompts: int = 60
    seed: int = 0
    judges: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.clips < 1 or self.prompts < 0 or self.links < 0:
            raise UserError("--clips must be at least 1, --links and --prompts at least 0")
        if self.judges and not self.prompts:
            raise UserError("--judge hears the music of --prompts, of which there is none")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an evaluation found.

    Attributes:
      figures, tables: measured.
      facts: of what.
      heard: pieces to listen to.
      sample_rate: Hz, of these.
    """

    figures: list[Figure]
    tables: list[Table]
    facts: dict[str, Any]
    heard: list[Heard]
    sample_rate: int


def evaluate_all(asked: Mapping[str, Evaluation]) -> Iterator[tuple[str, Measured]]:
    """`evaluate` of one or several bundles by name, each as soon as it is measured; all are looked at before the first is.

    Raises:
      UserError: as `evaluate`, or the clips are not as a bundle's parts take them.
    """
    for each in asked.values():
        check_fits(Bundle.load(each.bundle), each)
    for name, each in asked.items():
        yield name, evaluate(each)


def check_fits(bundle: Bundle, asked: Evaluation) -> None:
    """Refuses a data set whose clips have another length or rate than a bundle's.

    Raises:
      UserError: see above, or there is no such data set.
    """
    facts, geometry = read.metadata(read.audio_directory(asked.data_dir, asked.data)), bundle.geometry
    if (facts["sample_rate"], facts["seconds"]) != (geometry.sample_rate, geometry.clip_seconds):
        raise UserError(
            f"{asked.bundle} makes music of {geometry.sample_rate} Hz in clips of {geometry.clip_seconds:g} s, but the data "
            f"set {asked.data} holds clips of {facts['seconds']:g} s at {facts['sample_rate']} Hz"
        )


def evaluate(asked: Evaluation) -> Measured:
    """Measures every model of the bundle, each figure beside its baseline and with its interval.

    One held-out clip is enough. What it takes more for is a figure that says so, and so is what needs known notes where the
    training clips have none that judges could be fitted on.

    Raises:
      UserError: no bundle, no data set, no held-out clip, or a judge that cannot be loaded.
    """
    listeners = judge_models.load_all(asked.judges)
    bundle = Bundle.load(asked.bundle)
    geometry = bundle.geometry
    audio = read.audio_directory(asked.data_dir, asked.data)
    held_out = list(read.read_clips(audio, "test", asked.clips))
    melody = Melody(bundle)
    models = melody.loaded
    folder = _tokens(bundle, asked)
    train = _columns(tokens.read_tokens(folder, "train"), latents=False)
    test = _columns(tokens.read_tokens(folder, "test")).of([clip.id for clip in held_out])
    figures = [
        *representations(models, held_out, geometry.sample_rate),
        *token_models(models, train, test),
    ]
    tables, heard, real, judges, probe = [], [], None, None, None
    if (asked.links or asked.prompts) and all(clip.truth for clip in held_out):
        try:
            seen = [clip for clip in read.read_clips(audio, "train", JUDGE_CLIPS) if clip.truth]
            real, judges, probe = _fitted(seen, train, geometry)
        except UserError as lack:
            figures.append(Figure.unmeasured("judges", "notes at every link, and what prompts name", str(lack)))
        rows = balanced([clip.truth for clip in held_out], asked.links)
        if rows and real and judges:
            linked = [held_out[row] for row in rows], test.take(rows)
            found, more = links.notes_at_every_link(geometry, melody, models, real, *linked, judges, asked.seed)
            tables, figures = [found], figures + more
    if asked.prompts:
        judge = judges and judges.family
        known = judge is not None and all(clip.truth for clip in held_out)
        made = make_music(geometry, melody, held_out, known, asked.prompts, asked.seed)
        everything = held_out, test, train, judge, probe, listeners
        found, more = text_to_music(geometry, made, models, *everything)
        tables, figures = [*tables, found], figures + more
        heard = _heard(made, held_out)
    facts: dict[str, Any] = {"data": read.metadata(audio)["id"][:12], "held-out clips": len(held_out)}
    facts["sampled with"] = dataclasses.asdict(melody.defaults)
    facts |= {name: {"parameters": part.parameters} | _training(part.training) for name, part in bundle.parts.items()}
    return Measured(figures, tables, facts, heard, geometry.sample_rate)


def _heard(made: Made, clips: Sequence[Any]) -> list[Heard]:
    """The first pieces, for the page."""
    return [
        Heard(sentence, piece.audio, clips[row].audio, piece.settings.loudness)
        for sentence, piece, row in zip(made.sentences[:ON_PAGE], made.pieces, made.rows, strict=False)
    ]


def _tokens(bundle: Bundle, asked: Evaluation) -> Path:
    """The tokens that the bundle's parts make of the data set."""
    ids = {name: part.id for name, part in bundle.parts.items() if name in READ_AUDIO}
    found = present(ids, asked.model_dir, asked.data, asked.data_dir) if asked.model_dir else None
    return found or ensure(bundle.parts, asked.token_dir, asked.data, asked.data_dir, tokenizer=bundle.tokenizer)


def _fitted(seen: Sequence[Any], train: Columns, geometry: Geometry) -> tuple[Real, links.Judges, MusicProbe]:
    """Real renders of the training split, and what is fitted on them.

    Raises:
      UserError: they are too few, or too much alike.
    """
    if not seen:
        raise UserError("it takes training clips whose notes are known")
    real = Real(
        np.stack([clip.audio for clip in seen]),
        Truth.of([clip.truth for clip in seen]),
        train.of([clip.id for clip in seen]),
    )
    one = [clip.truth.family if len(clip.truth.families) == 1 else "" for clip in seen]
    written = links.by_level(real.tokens.semantic, geometry.semantic_levels, geometry.semantic_codes)
    probe = MusicProbe(written, real.audio, one, geometry.semantic_codes, geometry.sample_rate)
    return real, links.Judges(real.audio, real.truth, geometry.sample_rate), probe


def _columns(examples: Iterable[Any], latents: bool = True) -> Columns:
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
