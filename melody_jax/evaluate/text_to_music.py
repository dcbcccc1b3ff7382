"""Music made for captions of held-out clips, measured beside these clips themselves."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from melody_jax.evaluate import distances, links, measures, memorisation, rates
from melody_jax.evaluate.columns import Columns, batched
from melody_jax.evaluate.estimate import Estimate, mean
from melody_jax.evaluate.families import FamilyJudge
from melody_jax.evaluate.figures import Figure
from melody_jax.evaluate.judge_models import JudgeModel
from melody_jax.evaluate.players import SEEDS, Listener, Made
from melody_jax.evaluate.probe import MusicProbe
from melody_jax.evaluate.tables import Cell, Table
from melody_jax.evaluate.truth import Asked
from melody_jax.geometry import Geometry

MCC = "MuLan cycle consistency (MCC)"
DISTANCES = {  # each with the least number of pieces that it takes
    "Fréchet distance to unseen music": (distances.frechet, 2),
    "kernel audio distance to unseen music": (distances.kernel_distance, 2),
    "MAUVE audio divergence from unseen music": (distances.mauve_divergence, distances.MAUVE_FEWEST),
}
TARGETS = {
    "family": ">= 0.65",
    "key": ">= 0.64",
    "tempo": ">= 0.61",
    "notes in the best scale": ">= 0.85",
    "median note (s)": "0.1 to 0.6",
    "silent for over 0.7 s": "0",
    "with a click": "0",
}


def text_to_music(
    geometry: Geometry,
    music: Made,
    models: Listener,
    clips: Sequence[Any],
    tokens: Columns,
    train_tokens: Columns,
    judge: FamilyJudge | None,
    probe: MusicProbe | None,
    listeners: Sequence[JudgeModel] = (),
) -> tuple[Table, list[Figure]]:
    """Music for captions of held-out clips, measured beside these clips themselves.

    Args:
      geometry: of the tokens.
      music: what was made.
      models: of the weights that made it.
      clips: held-out ones, with truth or without.
      tokens: of these clips.
      train_tokens: of the training clips, for shared runs.
      judge: of families, fitted on real renders; None without truth.
      probe: of tokens, fitted on the same; None without truth.
      listeners: by whose embeddings distances are measured too.
    """
    rows, sentences, pieces = music.rows, music.sentences, music.pieces
    known = judge is not None and all(clip.truth for clip in clips)
    made, real = np.stack([piece.audio for piece in pieces]), np.stack([clip.audio for clip in clips])
    levels, codes = geometry.semantic_levels, geometry.semantic_codes
    written = links.by_level(np.stack([piece.tokens for piece in pieces]), levels, codes)
    heard, truths = links.by_level(tokens.semantic, levels, codes), [clips[row].truth for row in rows]
    asked = Asked.by(sentences, truths) if known else None
    everything = Asked.all_of([clip.truth for clip in clips]) if known else None
    found: dict[str, Cell] = {**rates.rates(made, geometry.sample_rate, asked, judge, written, probe)}
    beside: dict[str, Cell] = {**rates.rates(real, geometry.sample_rate, everything, judge, heard, probe)}
    for cells, runs in ((found, written), (beside, heard)):
        cells |= _shared_runs(runs, links.by_level(train_tokens.semantic, levels, codes))
    embedded = batched(models.embed_music, made), batched(models.embed_music, real)
    spoken = np.asarray(models.embed_text(sentences))
    others = np.setdiff1d(np.arange(len(real)), rows)
    found[MCC] = distances.cycle_consistency(spoken, embedded[0])
    beside[MCC] = distances.cycle_consistency(spoken, embedded[1][rows])
    different, again = "MuLan distance between prompts", np.stack([piece.audio for piece in music.again])
    found["MuLan distance between seeds of one prompt"] = _between_seeds(
        embedded[0], batched(models.embed_music, again)
    )
    found[different], beside[different] = (mean(distances.apart(x)) for x in (embedded[0], embedded[1][rows]))
    sampled = [piece.lufs[0] for piece in pieces if piece.lufs is not None]
    if sampled:
        found["loudness as sampled (LUFS)"] = mean(np.array(sampled))
    heard_by = {"": embedded}
    for one in listeners:
        heard_by[f", heard by {one.name}"] = (
            one.embed(made, geometry.sample_rate),
            one.embed(real, geometry.sample_rate),
        )
    for by, (own, unseen) in heard_by.items():
        found |= _distances(own, unseen, by)
        beside |= _distances(unseen[rows], unseen[others], by)
    table = rates.table(found, beside, len(rows), TARGETS if known else None)
    family, ceiling, name = found.get("family"), beside.get("family"), "asked family recognised"
    if asked is None or not isinstance(family, Estimate) or not isinstance(ceiling, Estimate):
        return table, []
    kinds = {kind for kind in asked.families if kind}
    if len(kinds) < 2:
        lacks = "it takes held-out captions that name instruments of two families"
        return table, [Figure.unmeasured("text-to-music", name, lacks)]
    chance = 1 / len(kinds)
    words = f"chance {chance:.3f}, real renders {ceiling.value:.3f}"
    name, bound = f"{name}, {len(rows)} prompts", measures.above_chance(chance, 2)
    return table, [Figure("text-to-music", name, family.value, words, bound, ">=", family.interval)]


def _between_seeds(first: np.ndarray, again: np.ndarray) -> Estimate:
    """Of pieces of one prompt, by the embeddings of the first ones [n, E] and of `Made.again`; a value for each prompt."""
    again = again.reshape(-1, SEEDS - 1, again.shape[-1])
    groups = np.concatenate([first[: len(again), None], again], axis=1)
    return mean(np.array([distances.apart(group).mean() for group in groups]))


def _shared_runs(clips: np.ndarray, train: np.ndarray) -> dict[str, Cell]:
    """Longest runs of first-level tokens that training clips hold too."""
    length, _ = memorisation.longest_shared(clips[..., 0], train[..., 0])
    return {
        "longest run shared with training, median (tokens)": float(np.median(length)),
        "longest run shared with training, largest (tokens)": float(length.max()),
    }


def _distances(music: np.ndarray, real: np.ndarray, by: str) -> dict[str, Cell]:
    """How far the music lies from real music, or how many pieces it takes to say; `by` says whose embeddings these are, where
    they are not MuLan's."""
    fewer = min(len(music), len(real))
    return {
        f"{name}{by}": distance(music, real) if fewer >= fewest else f"it takes {fewest} pieces"
        for name, (distance, fewest) in DISTANCES.items()
    }
