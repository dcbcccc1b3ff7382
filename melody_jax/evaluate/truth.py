"""What is known of clips because they were rendered from scores, as lists that the measures read."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from melody_jax.evaluate.adherence import pitch_class, plain_mode
from melody_jax.evaluate.notes import Notes


@dataclasses.dataclass(frozen=True)
class Truth:
    """Of n clips.

    Attributes:
      notes: of each clip.
      families: that lead them.
      solo: [n] whether one part plays alone.
    """

    notes: list[Notes]
    families: list[str]
    solo: np.ndarray

    @classmethod
    def of(cls, truths: Sequence[Any]) -> "Truth":
        """Of what data_pipelines.clip.Truth says of each clip."""
        solo = np.array([truth.texture == "solo" for truth in truths], bool)
        return cls([list(truth.notes) for truth in truths], [truth.family for truth in truths], solo)

    def take(self, rows: Sequence[int] | np.ndarray) -> "Truth":
        """Of some of the clips, in this order."""
        return Truth([self.notes[i] for i in rows], [self.families[i] for i in rows], self.solo[np.asarray(rows, int)])


@dataclasses.dataclass(frozen=True)
class Asked:
    """What was asked of n pieces; None and nan where nothing was.

    Attributes:
      families: of the leading instruments.
      keys: tonic (pitch class) and "major" or "minor".
      tempi: beats per minute.
      metres: "3/4", ...
    """

    families: list[str | None]
    keys: list[tuple[int, str] | None]
    tempi: np.ndarray
    metres: list[str | None]

    @classmethod
    def all_of(cls, truths: Sequence[Any]) -> "Asked":
        """Everything that is known of clips: what real renders are measured against. Where several families play none
        counts as asked for, as in `choose_prompts`."""
        return cls(
            [truth.family if len(truth.families) == 1 else None for truth in truths],
            [_key(truth) for truth in truths],
            np.array([truth.tempo or np.nan for truth in truths], float),
            [truth.metre or None for truth in truths],
        )

    @classmethod
    def by(cls, sentences: Sequence[str], truths: Sequence[Any]) -> "Asked":
        """What each sentence names of what is true of its clip."""
        everything = cls.all_of(truths)
        named = [_named(sentence, truth) for sentence, truth in zip(sentences, truths, strict=True)]
        return cls(
            [family if "family" in names else None for family, names in zip(everything.families, named, strict=True)],
            [key if "key" in names else None for key, names in zip(everything.keys, named, strict=True)],
            np.array([t if "tempo" in names else np.nan for t, names in zip(everything.tempi, named, strict=True)]),
            [metre if "metre" in names else None for metre, names in zip(everything.metres, named, strict=True)],
        )


def choose_prompts(captions: Sequence[Sequence[str]], truths: Sequence[Any], count: int) -> list[tuple[int, str]]:
    """(clip, sentence) of held-out clips in which one family plays, families in turn, at most `count`.

    Of a clip's captions the one that names most of family or instrument, key, tempo and metre is taken; clips none of
    whose captions names family or instrument ask for nothing that could be recognised.
    """
    by_family: dict[str, list[tuple[int, str]]] = {}
    for index, (sentences, truth) in enumerate(zip(captions, truths, strict=True)):
        if truth is None or len(truth.families) != 1:
            continue
        naming = [sentence for sentence in sentences if "family" in _named(sentence, truth)]
        if naming:
            most = max(naming, key=lambda sentence: len(_named(sentence, truth)))
            by_family.setdefault(truth.family, []).append((index, most))
    turns = max((len(rows) for rows in by_family.values()), default=0)
    rows = [rows[turn] for turn in range(turns) for _, rows in sorted(by_family.items()) if turn < len(rows)]
    return rows[:count]


def _key(truth: Any) -> tuple[int, str] | None:
    return (pitch_class(truth.key), plain_mode(truth.mode)) if truth.key and truth.mode else None


def _named(sentence: str, truth: Any) -> set[str]:
    """Which of family, key, tempo and metre a sentence names rightly."""
    text = sentence.lower()
    names = [truth.family, *truth.instruments]
    found = {"family"} if any(name and name.lower() in text for name in names) else set()
    if truth.key and re.search(rf"\b{re.escape(truth.key.lower())} {re.escape(truth.mode.lower())}\b", text):
        found.add("key")
    if truth.tempo and re.search(rf"\b{round(truth.tempo)} (?:bpm|beats per minute)", text):
        found.add("tempo")
    if truth.metre and re.search(rf"(?<!\d){re.escape(truth.metre)}(?!\d)", text):
        found.add("metre")
    return found
