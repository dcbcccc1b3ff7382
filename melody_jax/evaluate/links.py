"""Where notes are lost: the same measures at every link of the chain from a clip to what is made of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from melody_jax.errors import UserError
from melody_jax.evaluate import spectra
from melody_jax.evaluate.columns import Columns, Real, batched
from melody_jax.evaluate.estimate import Estimate
from melody_jax.evaluate.families import FamilyJudge
from melody_jax.evaluate.figures import Figure
from melody_jax.evaluate.notes import PitchClassJudge, chroma_cosine, onset_f
from melody_jax.evaluate.players import Listener, Player
from melody_jax.evaluate.probe import FamilyProbe, PitchClassProbe, SpectrumProbe, stacked
from melody_jax.evaluate.tables import Cell, Table
from melody_jax.evaluate.truth import Truth
from melody_jax.geometry import Geometry
from melody_jax.shapes import Float, Int

PITCH, CHROMA, ONSETS, FAMILY = "pitch class, solos", "chroma cosine, several parts", "onsets F", "family"
ANOTHER = "another clip"
OWN = "diffusion, from the clip's own tokens"
BESIDE_OWN = {"originals": "original", "another clip": ANOTHER}
COLUMNS = (PITCH, CHROMA, ONSETS, FAMILY)
NOTE = (
    "Share of frames of solos with the right pitch class, cosine of chroma with the original's where several parts play, "
    "F-measure of onsets within 50 ms, share of clips whose leading family is heard; 95 % intervals over clips. Judges are "
    "fitted on training renders. `another clip` is what guessing gives: the original of another clip held against the truth "
    "of this one."
)


class Judges:
    """Pitch class and family as heard by classifiers of real renders.

    Args:
      audio: training clips, solos among them.
      truth: of them.
      sample_rate: Hz.

    Raises:
      UserError: there are no solos, or they and the families are too much alike to tell apart.
    """

    def __init__(self, audio: Float[np.ndarray, "n T"], truth: Truth, sample_rate: int):
        self.sample_rate = sample_rate
        solos = np.flatnonzero(truth.solo)
        if not len(solos):
            raise UserError("a judge of pitch needs solos with truth")
        self.pitch = PitchClassJudge(audio[solos], truth.take(solos).notes, sample_rate)
        self.family = FamilyJudge(audio, truth.families, sample_rate)


@dataclasses.dataclass(frozen=True)
class Probed:
    """Tokens by level, [n, N, R] codes of 0 .. codes - 1, of the clips whose truth goes with them."""

    tokens: Int[np.ndarray, "n N R"]
    truth: Truth
    codes: int


def by_level(tokens: Int[np.ndarray, "n W"], levels: int, codes: int) -> Int[np.ndarray, "n N R"]:
    """Semantic tokens as the language model writes them (R a moment, level r counted from r * codes), as codes by level."""
    return tokens.reshape(len(tokens), -1, levels) - np.arange(levels) * codes


def link_table(
    original: Float[np.ndarray, "n T"],
    links: Mapping[str, Float[np.ndarray, "n T"]],
    truth: Truth,
    judges: Judges,
    rewritten: Mapping[str, Float[np.ndarray, "n T"]] | None = None,
    probes: Mapping[str, Mapping[str, Cell]] | None = None,
) -> Table:
    """One row for each link.

    Args:
      original: the clips.
      links: what each link makes of them, in the order of the chain.
      truth: of the clips.
      judges: see Judges.
      rewritten: what plays other notes than the clips' (the language model's): only its family can be right.
      probes: rows of `probe_rows`.
    """
    reference = spectra.chroma(spectra.bands(original, judges.sample_rate))
    rows: dict[str, Mapping[str, Cell]] = {}
    if len(original) > 1:
        rows[ANOTHER] = _row(np.roll(original, 1, axis=0), reference, truth, judges)
    rows["original"] = _row(original, reference, truth, judges)
    rows |= {name: _row(audio, reference, truth, judges) for name, audio in links.items()}
    rows |= probes or {}
    for name, audio in (rewritten or {}).items():
        rows[name] = {FAMILY: judges.family.right(audio, truth.families)}
    return Table("Notes at every link", "link", COLUMNS, rows, NOTE)


def probe_rows(
    train: Probed,
    held_out: Probed,
    original: Float[np.ndarray, "n T"],
    train_bands: Float[np.ndarray, "m N bands"],
    sample_rate: int,
) -> dict[str, Mapping[str, Cell]]:
    """What linear models read from the tokens of the first level, and from those of all levels where there are several.

    Args:
      train: tokens and truth that the probes are fitted on, solos among them.
      held_out: those they are judged on.
      original: the held-out clips.
      train_bands: `spectra.relative` of the training clips, [m, N, bands].
      sample_rate: Hz.

    Returns:
      Rows of the link table by name.
    """
    count = stacked(held_out.tokens).shape[-1]
    reference = spectra.chroma(spectra.bands(original, sample_rate))
    rows: dict[str, Mapping[str, Cell]] = {}
    for levels in sorted({1, count}):
        seen, unseen = train.tokens[..., :levels], held_out.tokens[..., :levels]
        solos, others = np.flatnonzero(train.truth.solo), np.flatnonzero(held_out.truth.solo)
        pitch = PitchClassProbe(seen[solos], train.truth.take(solos).notes, train.codes)
        family = FamilyProbe(seen, train.truth.families, train.codes)
        spectrum = SpectrumProbe(seen, train_bands, train.codes).spectrum(unseen)
        several = np.flatnonzero(~held_out.truth.solo)
        name = "tokens, by a linear probe" if count == 1 else f"tokens, {levels} of {count} levels, by a linear probe"
        rows[name] = {
            PITCH: pitch.right(unseen[others], held_out.truth.take(others).notes) if len(others) else None,
            CHROMA: _cosine(reference[several], spectra.chroma(spectrum[several])),
            FAMILY: family.right(unseen, held_out.truth.families),
        }
    return rows


def notes_at_every_link(
    geometry: Geometry,
    melody: Player,
    models: Listener,
    train: Real,
    clips: Sequence[Any],
    tokens: Columns,
    judges: Judges,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Table, list[Figure]]:
    """The table of links on held-out clips whose notes are known, and the bound that training must reach.

    Args:
      geometry: of the tokens.
      melody, models: of the same weights.
      train: what probes are fitted on.
      clips: held-out ones, solos and others.
      tokens: of these clips, with latents.
      judges: fitted on `train`.
      seed: of diffusion and language model.
      progress: whether bars are shown.
    """
    audio, truth = np.stack([clip.audio for clip in clips]), Truth.of([clip.truth for clip in clips])
    if tokens.latents is None:
        raise ValueError("notes_at_every_link: the clips have no latents")
    own = melody.perform(tokens.semantic, tokens.mulan, tokens.controls, seed=seed, progress=progress)
    written = melody.generate(audio=list(audio), seed=seed, seconds=geometry.clip_seconds, progress=progress)
    levels, codes = geometry.semantic_levels, geometry.semantic_codes
    seen = Probed(by_level(train.tokens.semantic, levels, codes), train.truth, codes)
    unseen = Probed(by_level(tokens.semantic, levels, codes), truth, codes)
    bands = spectra.relative(spectra.bands(train.audio, judges.sample_rate))
    table = link_table(
        audio,
        {
            "autoencoder": batched(models.reconstruct, audio),
            "decoder that sampling uses": melody.decode(tokens.latents),
            OWN: own,
        },
        truth,
        judges,
        {"language model's own tokens": np.stack([piece.audio for piece in written])},
        probe_rows(seen, unseen, audio, bands, judges.sample_rate),
    )
    return table, [own_notes(table)]


def own_notes(table: Table) -> Figure:
    """The bound on the notes that the diffusion plays from a clip's own tokens."""
    name = "pitch class from own tokens, solos"
    own = table.rows[OWN].get(PITCH)
    if not isinstance(own, Estimate):
        return Figure.unmeasured("dpd", name, "it takes a held-out solo whose notes are known")
    cells = {words: table.rows.get(row, {}).get(PITCH) for words, row in BESIDE_OWN.items()}
    beside = ", ".join(f"{words} {cell.value:.3f}" for words, cell in cells.items() if isinstance(cell, Estimate))
    return Figure("dpd", name, own.value, beside, 0.6, ">=", own.interval)


def _row(audio: np.ndarray, reference: np.ndarray, truth: Truth, judges: Judges) -> dict[str, Cell]:
    solos, several = np.flatnonzero(truth.solo), np.flatnonzero(~truth.solo)
    heard = spectra.chroma(spectra.bands(audio[several], judges.sample_rate)) if len(several) else reference[several]
    return {
        PITCH: judges.pitch.right(audio[solos], truth.take(solos).notes) if len(solos) else None,
        CHROMA: _cosine(reference[several], heard),
        ONSETS: onset_f(audio, truth.notes, judges.sample_rate),
        FAMILY: judges.family.right(audio, truth.families),
    }


def _cosine(reference: np.ndarray, heard: np.ndarray) -> Estimate | None:
    return chroma_cosine(reference, heard) if len(reference) else None
