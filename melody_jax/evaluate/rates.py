"""How often pieces of music are what was asked and sound as music does: one number a measure, for made and real music."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from melody_jax.evaluate import adherence, faults, memorisation
from melody_jax.evaluate.estimate import Estimate, mean
from melody_jax.evaluate.families import FamilyJudge
from melody_jax.evaluate.notes import onset_peaks
from melody_jax.evaluate.probe import MusicProbe
from melody_jax.evaluate.tables import Cell, Table
from melody_jax.evaluate.truth import Asked
from melody_jax.generate.loudness import lufs
from melody_jax.shapes import Float, Int

SHORTEST_NOTE, LONGEST_NOTE = 0.1, 0.6  # seconds: bounds of a usual median
MADE, REAL, TARGET = "made", "real renders", "target"
NOTE = (
    "Music made for captions of unseen clips, and real renders judged the same way: what a judge misses there it cannot "
    "hear here either. Key: tonic and mode by Krumhansl and Schmuckler; tempo: within 8 % of the one asked for, its half or "
    "its double (guessing: 0.23); beat strength: onset strength on the beats over its mean, 1 without a beat; scale: the "
    "diatonic one that holds most notes; MuLan cycle consistency: the mean cosine of MuLan's embeddings of text and music, which "
    "compares pieces only where they are heard by the same MuLan; MuLan distance: one "
    "minus the cosine of two pieces; loudness: integrated (ITU-R BS.1770), as sampled: before it is brought to the one "
    "asked for; 95 % intervals over pieces."
)


def rates(
    audio: Float[np.ndarray, "n T"],
    sample_rate: int,
    asked: Asked | None = None,
    family: FamilyJudge | None = None,
    tokens: Int[np.ndarray, "n N R"] | None = None,
    probe: MusicProbe | None = None,
) -> dict[str, Estimate]:
    """Every measure of these pieces.

    Args:
      audio: the pieces.
      sample_rate: Hz.
      asked: what they should be; measures that need it are left out if None.
      family: judge of families, where these are asked for.
      tokens: codes by level, for the share of repeats.
      probe: reads from the tokens what was asked, where something was.
    """
    heard = adherence.listen(audio, sample_rate)
    tempi = adherence.tempi(heard.strength)
    found: dict[str, Estimate] = {}
    if asked is not None:
        found |= _asked(audio, heard, tempi, asked, family)
        if tokens is not None and probe is not None:
            found |= _written(tokens, asked, probe)
    lines = [
        adherence.melody_line(chroma, onset_peaks(strength))
        for chroma, strength in zip(heard.chroma, heard.strength, strict=True)
    ]
    median = np.array([np.median([length for _, length, _ in line]) if line else np.nan for line in lines])
    usual = np.where(np.isfinite(median), (median >= SHORTEST_NOTE) & (median <= LONGEST_NOTE), False)
    scale = [adherence.in_best_scale(np.array([pitch for _, _, pitch in line], int)) for line in lines]
    found |= {
        "beat strength": mean(adherence.beat_strength(heard.strength, tempi)),
        "median note (s)": mean(median),
        f"median note of {SHORTEST_NOTE:g} to {LONGEST_NOTE:g} s": mean(usual),
        "notes in the best scale": mean(np.asarray(scale)),
    }
    if tokens is not None:
        for level, share in enumerate(memorisation.repeats(tokens).T):
            found[f"tokens of level {level + 1} that repeat"] = mean(share)
    found[f"silent for over {faults.GAP:g} s"] = mean(faults.longest_gap(audio, sample_rate) > faults.GAP)
    found["with a click"] = mean(np.array([len(faults.clicks(piece)) > 0 for piece in audio]))
    found["loudness (LUFS)"] = mean(np.array([lufs(piece, sample_rate) for piece in audio]))
    return found


def table(
    made: Mapping[str, Cell], real: Mapping[str, Cell], prompts: int, targets: Mapping[str, str] | None = None
) -> Table:
    """Measures of made music beside those of real renders."""
    rows: dict[str, Mapping[str, Cell]] = {
        name: {MADE: made.get(name), REAL: real.get(name), TARGET: (targets or {}).get(name)}
        for name in [*made, *(name for name in real if name not in made)]
    }
    columns = (MADE, REAL, TARGET) if targets else (MADE, REAL)
    return Table(f"Text to music, {prompts} prompts", "measure", columns, rows, NOTE)


def _asked(
    audio: np.ndarray, heard: adherence.Heard, tempi: np.ndarray, asked: Asked, family: FamilyJudge | None
) -> dict[str, Estimate]:
    """What sentences name: each measure counts the pieces of which it was asked."""
    found: dict[str, Estimate] = {}
    if family is not None:
        guesses = family.heard(audio)
        found["family"] = _share(guesses, asked.families)
    keys = adherence.keys(heard.chroma)
    found["key"] = _share(keys, asked.keys)
    scores = [
        np.nan if wanted is None else adherence.key_score(key, wanted)
        for key, wanted in zip(keys, asked.keys, strict=True)
    ]
    found["key, MIREX score"] = mean(np.array(scores))
    right = np.where(np.isfinite(asked.tempi), adherence.tempo_right(tempi, asked.tempi), np.nan)
    found["tempo"] = mean(right)
    wanted = [None if metre is None else adherence.beats_in_bar(metre) == 3 for metre in asked.metres]
    at = np.where(np.isfinite(asked.tempi), asked.tempi, tempi)
    three = adherence.threes(heard.strength, heard.chroma, at) > 0
    for name, kind in (("bars of three, heard as such", True), ("bars of two or four, heard as such", False)):
        found[name] = _share(three, [None if want is not kind else kind for want in wanted])
    return found


def _written(tokens: np.ndarray, asked: Asked, probe: MusicProbe) -> dict[str, Estimate]:
    """What is asked and can be read from the tokens: music in which it is not was written wrongly, not played wrongly."""
    right = adherence.tempo_right(probe.tempi(tokens), asked.tempi)
    return {
        "family, read from the tokens": _share(probe.families(tokens), asked.families),
        "key, read from the tokens": _share(probe.keys(tokens), asked.keys),
        "tempo, read from the tokens": mean(np.where(np.isfinite(asked.tempi), right, np.nan)),
    }


def _share(heard: Any, asked: Any) -> Estimate:
    """Share of pieces in which what is asked is heard; those of which nothing is asked do not count."""
    return mean(np.array([np.nan if a is None else float(h == a) for h, a in zip(heard, asked, strict=True)]))
