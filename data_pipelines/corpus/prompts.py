"""Prompts that nothing in the training set was made for, evenly from all families, with what they ask for."""

import dataclasses
import os
from collections.abc import Iterable

import numpy as np

from data_pipelines.clip import Truth
from data_pipelines.corpus import arrange, caption, index
from data_pipelines.corpus import plan as planning
from data_pipelines.corpus.instruments import FAMILIES


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A sentence, and the truth that music which obeys it would have."""

    text: str
    truth: Truth


def unseen_prompts(
    count: int, seed: int, folder: str | os.PathLike, rendered: Iterable[Truth] = (), restricted: bool = False
) -> list[Prompt]:
    """Prompts for one family of instruments each, from tunes of the test split.

    Args:
        count: how many; the families take turns.
        seed: determines everything.
        folder: where the parsed corpus lies (see index.load).
        rendered: truths of the training clips; a prompt whose leading instrument, rhythm, key and mode all agree with
            one of them is left out.
        restricted: as in plan.
    """
    return prompts_of(index.load(folder, restricted), count, seed, rendered)


def prompts_of(entries: list[index.Entry], count: int, seed: int, rendered: Iterable[Truth] = ()) -> list[Prompt]:
    """As `unseen_prompts`, of pieces that are at hand."""
    seen = {combination(truth) for truth in rendered}
    found: dict[str, list[Prompt]] = {family: [] for family in FAMILIES}
    wanted = -(-count // len(FAMILIES))
    # Its own seed sequence: the prompts are not the captions of the test clips.
    plans = planning.plan_entries(entries, seed + 1_000_003, {"test": 5 * len(FAMILIES) * (wanted + 2)})
    for plan in plans:
        if not plan.one_family or len(found[plan.family]) >= wanted:
            continue
        arrangement = arrange.arrange(plan)
        if combination(arrangement.truth) in seen:
            continue
        text = caption.request(arrangement, np.random.default_rng((plan.seed, 2)))
        found[plan.family].append(Prompt(text, arrangement.truth))
    rounds = [found[family][turn] for turn in range(wanted) for family in FAMILIES if turn < len(found[family])]
    if len(rounds) < count:
        raise ValueError(f"only {len(rounds)} unseen prompts of {count} were found; ask for fewer")
    return rounds[:count]


def combination(truth: Truth) -> tuple[str, str, str, str]:
    """What makes a prompt new: leading instrument, rhythm, key and mode together."""
    return truth.instruments[0], truth.rhythm, truth.key, truth.mode
