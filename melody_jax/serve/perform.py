"""Wanted pieces as calls of `Melody`."""

from collections.abc import Sequence
from typing import Any

from melody_jax.errors import UserError
from melody_jax.generate import Melody, Result
from melody_jax.generate.replay import controls_in
from melody_jax.generate.writer import describe, tags
from melody_jax.samples import to_int16
from melody_jax.serve.jobs import Wanted
from melody_jax.serve.takes import Take, new_id


def perform(melody: Melody, wanted: Sequence[Wanted], **told: Any) -> list[Result]:
    """Makes them: several of one `Wanted.key` in one call, or one.

    Args:
      **told: `progress` and `cancel` of `Melody`'s calls.

    Raises:
      UserError, Cancelled: as `Melody`.
    """
    first = wanted[0]
    run: Any = {"settings": first.settings, "keep_all": first.keep_all, "batch_size": len(wanted), **told}
    if first.key is not None:
        negative = None if first.negative is None else [one.negative or "" for one in wanted]
        prompts, seeds = [one.prompt or "" for one in wanted], [one.seed for one in wanted]
        return melody.generate(prompts, negative=negative, seed=seeds, controls=[one.controls for one in wanted], **run)
    run |= {"seed": [first.seed], "controls": first.controls, "negative": first.negative}
    if first.take is None:
        raise UserError(f"there is no music to {first.verb}")
    music, run["heard"] = [first.take.audio], controls_in(first.take.made.get("call", {}))
    if first.verb == "generate":
        return melody.generate(audio=music, **run)
    if first.verb == "continue":
        return melody.continue_(music, first.prompt, **run)
    if first.verb == "inpaint":
        return melody.inpaint(music, first.spans, first.prompt, **run)
    return melody.vary(music, first.strength, first.prompt, **run)


def takes_of(melody: Melody, wanted: Wanted, result: Result) -> list[Take]:
    """The piece and, where they were asked for, the candidates that were not chosen."""
    return [_take(melody, wanted, piece) for piece in (result, *result.others)]


def _take(melody: Melody, wanted: Wanted, result: Result) -> Take:
    parent = wanted.take
    made = describe(result, melody.bundle)
    made["bundle"] = {"parts": melody.bundle.ids}  # without the folder, which clients need not know
    made["verb"], made["parent"] = wanted.verb, parent.id if parent else None
    title = result.prompt or (parent.title if parent else "")
    return Take(
        new_id(),
        to_int16(result.audio),
        result.sample_rate,
        wanted.verb,
        title,
        made["parent"],
        made,
        tags(result, melody.bundle),
    )
