"""Which controls a piece gets: those of the caller, those that its sentence names, and the beat of given music."""

import dataclasses
import warnings
from typing import Any

import numpy as np

from melody_jax.codes.control_words import pace_of, read_sentence
from melody_jax.codes.controls import Controls, encode, merge, to_json
from melody_jax.errors import UserError
from melody_jax.system import System


def controls_for(
    system: System,
    sentence: str,
    flags: Controls | None,
    seed: int | None = None,
    heard: Controls | None = None,
    since: float = 0.0,
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """(codes of the controls, what they say for `Result.call`); (None, {}) for a bundle that knows none.

    Args:
      system: whose language model reads them.
      sentence: "" for none.
      flags: what the caller wants, whatever the sentence says.
      seed: of music that is all new: it begins with a bar, and for a language model that reads beats, and keeps no time
        without them, a tempo is drawn that suits the sentence where none is named.
      heard: of given music; its beat counts where neither flags nor sentence say a tempo.
      since: seconds of the given music before the first moment.

    Raises:
      UserError: flags for a bundle that knows no controls.
    """
    if not system.vocabulary.controls:
        if flags:
            raise UserError("this bundle's language model knows no controls; say it in the sentence")
        return None, {}
    asked, contradictions = merge(flags or Controls(), read_sentence(sentence))
    for line in contradictions:
        warnings.warn(line, stacklevel=4)
    pace = pace_of(sentence) if sentence and system.lm.config.beats else None
    if seed is not None and asked.tempo is None and pace is not None:
        asked = dataclasses.replace(asked, tempo=float(np.random.default_rng(seed).integers(*pace)))
    if seed is not None and asked.tempo is not None and asked.downbeat is None:
        asked = dataclasses.replace(asked, downbeat=0.0)
    if heard is not None and asked.tempo is None:
        metre = asked.metre or heard.metre
        asked = dataclasses.replace(asked, tempo=heard.tempo, downbeat=heard.downbeat, metre=metre)
    there = asked if asked.downbeat is None else dataclasses.replace(asked, downbeat=asked.downbeat - since)
    return encode(there), {"controls": to_json(asked)}
