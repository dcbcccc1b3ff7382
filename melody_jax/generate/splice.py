"""New music in the place of old: as loud as what is beside it, joints without a click, all other samples as they were."""

from collections.abc import Sequence

import numpy as np

from melody_jax.shapes import Float

JOINT_SECONDS = 0.020
"""Length of a cross-fade from what stands to what is new, which goes on from it."""
RETURN_SECONDS = 0.080
"""Length of the one back, about a decoder's window: the phases of what is new run on from what stands before it, and lead
nowhere near those of what follows."""
_CONTEXT_SECONDS = 1.0
_LEAST_GAIN, _LARGEST_GAIN = 0.25, 2.0  # a span that is mostly a rest is no fault
_SILENCE = 1e-4


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


def levelled(
    old: Float[np.ndarray, " T"], new: Float[np.ndarray, " made"], spans: Sequence[tuple[int, int]], sample_rate: int
) -> Float[np.ndarray, " made"]:
    """`new` with each span [begin, end) (samples) as loud as the seconds of `old` before it and after it.

    Models reproduce levels only roughly. Nothing is changed where nothing stands beside a span, or one of the two is silent.
    """
    made = np.array(new, np.float32)
    reach = round(_CONTEXT_SECONDS * sample_rate)
    for begin, end in spans:
        beside = np.concatenate([old[max(0, begin - reach) : begin], old[end : end + reach]])
        if not beside.size:
            continue
        there, here = (float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (beside, made[begin:end]))
        if min(there, here) >= _SILENCE:
            made[begin:end] *= np.clip(there / here, _LEAST_GAIN, _LARGEST_GAIN)
    return made


def _crossed(before: Float[np.ndarray, " _"], after: Float[np.ndarray, " _"]) -> Float[np.ndarray, " _"]:
    """From `before` to `after`; amplitudes sum to 1, for at a joint the two are nearly the same music."""
    length = min(len(before), len(after))
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / max(length, 1))
    return ((1 - ramp) * before[:length] + ramp * after[:length]).astype(np.float32)
