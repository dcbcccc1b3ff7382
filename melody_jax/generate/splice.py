"""New music in the place of old: joints without a click, all other samples as they were."""

from collections.abc import Sequence

import numpy as np

from melody_jax.shapes import Float

JOINT_SECONDS = 0.020
"""Length of a cross-fade."""
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
        length = min(round(JOINT_SECONDS * sample_rate), (end - begin) // 2)
        ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / max(length, 1))
        if begin > 0 and length:
            made[begin : begin + length] = _crossed(old[begin : begin + length], new[begin : begin + length], ramp)
        if end < len(new) and length:
            made[end - length : end] = _crossed(old[end - length : end], new[end - length : end], ramp[::-1])
    return made


def matched(
    new: Float[np.ndarray, " made"], old: Float[np.ndarray, " T"], spans: Sequence[tuple[int, int]], sample_rate: int
) -> Float[np.ndarray, " made"]:
    """`new` as loud as `old` in the second around the spans, which both have: a decoder reproduces levels only roughly."""
    reach = round(_CONTEXT_SECONDS * sample_rate)
    around = np.zeros(len(new), bool)
    for begin, end in spans:
        around[max(0, begin - reach) : end + reach] = True
    for begin, end in spans:
        around[begin:end] = False
    around[len(old) :] = False
    if not around.any():
        return new
    there, here = (float(np.sqrt(np.mean(np.square(x[: len(around)][around[: len(x)]])))) for x in (old, new))
    if min(there, here) < 1e-4:
        return new
    return new * np.float32(np.clip(there / here, 1 / _LARGEST_CHANGE, _LARGEST_CHANGE))


def _crossed(before: np.ndarray, after: np.ndarray, ramp: np.ndarray) -> np.ndarray:
    """From `before` to `after`; amplitudes sum to 1, for at a joint the two are nearly the same music."""
    length = min(len(before), len(after))
    return ((1 - ramp[:length]) * before[:length] + ramp[:length] * after[:length]).astype(np.float32)
