"""New music in the place of old: joints without a click, all other samples as they were."""

from collections.abc import Sequence

import numpy as np

from melody_jax.shapes import Float

JOINT_SECONDS = 0.020
"""Length of a cross-fade from what stands to what is new, which goes on from it."""
RETURN_SECONDS = 0.080
"""Length of the one back, about a decoder's window: the phases of what is new run on from what stands before it, and lead
nowhere near those of what follows."""
_CONTEXT_SECONDS = 1.0
_LARGEST_CHANGE = 2.0


def spliced(
    old: Float[np.ndarray, " T"], new: Float[np.ndarray, " made"], spans: Sequence[tuple[int, int]], sample_rate: int
) -> Float[np.ndarray, " made"]:
    """`new` in the spans [begin, end) (samples), `old` bit for bit everywhere else.

    Cross-fades lie inside the spans, where there is old music to fade from or to.

    Args:
      old: what was there; it may end before `new` does, a span then reaching to the end.
      new: the same music with other spans.
    """
    made = np.array(new, np.float32)
    kept = np.ones(len(new), bool)
    for begin, end in spans:
        kept[begin:end] = False
    made[: len(old)][kept[: len(old)]] = old[kept[: len(old)]]
    for begin, end in spans:
        length, back = (
            min(round(seconds * sample_rate), (end - begin) // 2) for seconds in (JOINT_SECONDS, RETURN_SECONDS)
        )
        if begin > 0:
            there = slice(begin, begin + length)
            made[there] = _crossed(old[there], new[there])
        if end < len(new):
            there = slice(end - back, end)
            made[there] = _crossed(new[there], old[there])
    return made


def loudness_ratio(
    decoded: Float[np.ndarray, " made"],
    old: Float[np.ndarray, " T"],
    spans: Sequence[tuple[int, int]],
    sample_rate: int,
) -> float:
    """How many times as loud as `old` it is as a decoder gives it back, in the second around the spans.

    A decoder reproduces levels only roughly. 1 where there is nothing around the spans, or silence.
    """
    reach = round(_CONTEXT_SECONDS * sample_rate)
    around = np.zeros(len(old), bool)
    for begin, end in spans:
        around[max(0, begin - reach) : end + reach] = True
    for begin, end in spans:
        around[begin:end] = False
    if not around.any():
        return 1.0
    there, here = (float(np.sqrt(np.mean(np.square(x[: len(old)][around])))) for x in (old, decoded))
    if min(there, here) < 1e-4:
        return 1.0
    return float(np.clip(here / there, 1 / _LARGEST_CHANGE, _LARGEST_CHANGE))


def _crossed(before: Float[np.ndarray, " _"], after: Float[np.ndarray, " _"]) -> Float[np.ndarray, " _"]:
    """From `before` to `after`; amplitudes sum to 1, for at a joint the two are nearly the same music."""
    length = min(len(before), len(after))
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / max(length, 1))
    return ((1 - ramp) * before[:length] + ramp * after[:length]).astype(np.float32)
