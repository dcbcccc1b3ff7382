"""Tokens of clips as columns, what judges are fitted on, and functions over many clips in batches of one shape."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from melody_jax.evaluate.truth import Truth

BATCH = 8


@dataclasses.dataclass(frozen=True)
class Columns:
    """Tokens of the clips of one split, in the order of the clips: mulan and text [n, Q], semantic [n, W]; ids of the
    clips, their families ("" where unknown); latents [n, L, D] where they are needed; controls
    [n, controls] where they are stored."""

    ids: list[str]
    families: list[str]
    mulan: np.ndarray
    text: np.ndarray
    semantic: np.ndarray
    latents: np.ndarray | None = None
    controls: np.ndarray | None = None

    def take(self, rows: Sequence[int] | np.ndarray) -> "Columns":
        """Of some of the clips, in this order."""
        index = np.asarray(rows, int)
        some = {
            name: column[index]
            for name in ("mulan", "text", "semantic", "latents", "controls")
            if (column := getattr(self, name)) is not None
        }
        return Columns([self.ids[i] for i in index], [self.families[i] for i in index], **some)

    def of(self, ids: Sequence[str]) -> "Columns":
        """Of the clips with these ids."""
        place = {name: row for row, name in enumerate(self.ids)}
        return self.take([place[name] for name in ids])


@dataclasses.dataclass(frozen=True)
class Real:
    """Real renders with truth: what judges are fitted on, and their tokens."""

    audio: np.ndarray
    truth: Truth
    tokens: Columns


def batched(function: Callable[..., Any], *columns: np.ndarray) -> np.ndarray:
    """`function` over batches of one shape; the last one is filled up and cut."""
    count = len(columns[0])
    index = np.minimum(np.arange(count + -count % BATCH), count - 1)
    starts = range(0, len(index), BATCH)
    rows = [function(*(column[index[i : i + BATCH]] for column in columns)) for i in starts]
    return np.concatenate(rows)[:count]


def balanced(truths: Sequence[Any], count: int) -> list[int]:
    """At most `count` clips whose notes are known, solos and others in turn."""
    known = [i for i, truth in enumerate(truths) if truth is not None and truth.notes]
    kinds: Mapping[bool, list[int]] = {
        solo: [i for i in known if (truths[i].texture == "solo") is solo] for solo in (True, False)
    }
    turns = max(map(len, kinds.values()))
    rows = [rows[turn] for turn in range(turns) for rows in kinds.values() if turn < len(rows)]
    return sorted(rows[:count])
