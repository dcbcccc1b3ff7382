"""Loudness of music and what is done about it: measured, brought to a level, peaks held below a ceiling, ends faded.

ITU-R BS.1770-4: K-weighting, blocks of 400 ms, gates at -70 LUFS and 10 LU below the mean of what is left.
"""

import math

import numpy as np
import soxr

from melody_jax.shapes import Float

CEILING = 10.0 ** (-1.0 / 20)
"""No true peak is above it: -1 dBTP."""
FADE_SECONDS = 0.010
_MARGIN = 10.0 ** (-0.1 / 20)  # the limiter's gain moves, which may raise peaks between samples a little
_LOOKAHEAD_SECONDS = 0.005
_BLOCK, _STEP = 0.4, 0.1
_LARGEST_GAIN = 10.0 ** (40 / 20)  # what is quieter than that is noise, not music


def lufs(audio: Float[np.ndarray, " T"], sample_rate: int) -> float:
    """Integrated loudness; -inf for silence. Music shorter than a block is heard as if it were repeated."""
    block, step = round(_BLOCK * sample_rate), round(_STEP * sample_rate)
    if not audio.size:
        return -math.inf
    if len(audio) < block:
        audio = np.resize(audio, block)
    power = np.square(_k_weighted(audio.astype(np.float64), sample_rate))
    sums = np.concatenate([[0.0], np.cumsum(power)])
    starts = np.arange(0, len(audio) - block + 1, step)
    blocks = (sums[starts + block] - sums[starts]) / block
    heard = blocks[blocks > _power(-70.0)]
    if heard.size:
        heard = heard[heard > 0.1 * heard.mean()]
    return _level(float(heard.mean())) if heard.size else -math.inf


def brought_to(audio: Float[np.ndarray, " T"], sample_rate: int, target: float) -> Float[np.ndarray, " T"]:
    """Music at `target` LUFS, limited; silence stays silence.

    The limiter takes a part of the loudness away where peaks are high, so the gain is found in a few rounds.
    """
    measured = lufs(audio, sample_rate)
    if measured == -math.inf:
        return audio
    gain = 1.0
    made = audio
    for _ in range(5):
        if abs(target - measured) < 0.2:
            break
        gain = min(gain * 10.0 ** ((target - measured) / 20), _LARGEST_GAIN)
        made = limited(gain * audio, sample_rate)
        measured = lufs(made, sample_rate)
    return made if made is not audio else limited(audio, sample_rate)


def mastered(
    audio: Float[np.ndarray, " T"], sample_rate: int, target: float | None
) -> tuple[Float[np.ndarray, " T"], tuple[float, float] | None]:
    """New music at `target` LUFS with its ends faded, and its loudness before and after.

    Without a target nothing is measured (None), and music is only turned down where it is beyond full scale.
    """
    audio = audio.astype(np.float32)
    if target is None:
        return faded(audio / max(1.0, float(np.abs(audio).max())), sample_rate, True, True), None
    level = faded(brought_to(audio, sample_rate, target), sample_rate, True, True)
    return level, (lufs(audio, sample_rate), lufs(level, sample_rate))


def limited(audio: Float[np.ndarray, " T"], sample_rate: int) -> Float[np.ndarray, " T"]:
    """Music without true peaks above `CEILING`, turned down smoothly a few milliseconds around each."""
    return (audio * limiter_gain(audio, sample_rate)).astype(np.float32)


def limiter_gain(audio: Float[np.ndarray, " T"], sample_rate: int) -> Float[np.ndarray, " T"]:
    """The limiter's gain at every sample: how it depends on the music reaches `limiter_reach` samples to either side."""
    needed = np.minimum(1.0, CEILING * _MARGIN / np.maximum(_true_peaks(audio, sample_rate), 1e-9))
    if needed.min() == 1.0:
        return np.ones(len(audio))
    reach = max(1, round(_LOOKAHEAD_SECONDS * sample_rate))
    lowest = _sliding_minimum(np.pad(needed, 2 * reach, constant_values=1.0), 2 * reach + 1)
    kernel = np.hanning(2 * reach + 3)[1:-1]
    return np.convolve(lowest, kernel / kernel.sum(), "valid")


def limiter_reach(sample_rate: int) -> int:
    """Samples; resampling reaches beyond the lookahead."""
    return 2 * max(1, round(_LOOKAHEAD_SECONDS * sample_rate)) + 256


def faded(audio: Float[np.ndarray, " T"], sample_rate: int, start: bool, end: bool) -> Float[np.ndarray, " T"]:
    """Music with its cut ends faded over `FADE_SECONDS`, along half a cosine."""
    length = min(round(FADE_SECONDS * sample_rate), len(audio) // 2)
    ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / max(length, 1))).astype(np.float32)
    made = np.array(audio, np.float32)
    if start:
        made[:length] *= ramp
    if end and length:
        made[-length:] *= ramp[::-1]
    return made


def _true_peaks(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """The largest magnitude at and around every sample, of the music at four times its rate."""
    dense = np.abs(soxr.resample(audio.astype(np.float32), sample_rate, 4 * sample_rate))
    dense = np.pad(dense, (0, max(0, 4 * len(audio) - len(dense))))[: 4 * len(audio)].reshape(-1, 4)
    after = dense.max(axis=1)
    around = np.maximum(after, np.concatenate([[0.0], after[:-1]]))
    return np.maximum(around, np.abs(audio))


def _sliding_minimum(x: np.ndarray, width: int) -> np.ndarray:
    """The minimum of every `width` neighbours, as many as fit: windows of 1, 2, 4, ... joined two by two."""
    size = 1
    while 2 * size <= width:
        x = np.minimum(x[:-size], x[size:])
        size *= 2
    rest = width - size
    return np.minimum(x[: len(x) - rest], x[rest:]) if rest else x


def _k_weighted(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Through the head filter (a shelf of 4 dB from 1.7 kHz up) and the high-pass at 38 Hz."""
    size = 1 << (len(audio) + sample_rate).bit_length()  # room for the filters' ringing
    turn = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    spectrum = np.fft.rfft(audio, size)
    for numerator, denominator in (_shelf(sample_rate), _high_pass(sample_rate)):
        spectrum *= np.polyval(numerator[::-1], turn) / np.polyval(denominator[::-1], turn)
    return np.fft.irfft(spectrum, size)[: len(audio)]


def _shelf(sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    frequency, quality, gain = 1681.9744509555319, 0.7071752369554196, 10.0 ** (3.99984385397 / 20)
    k, middle = math.tan(math.pi * frequency / sample_rate), gain**0.499666774155
    numerator = np.array([gain + middle * k / quality + k * k, 2 * (k * k - gain), gain - middle * k / quality + k * k])
    return _over(numerator, k, quality)


def _high_pass(sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    k = math.tan(math.pi * 38.13547087602444 / sample_rate)
    _, denominator = _over(np.ones(3), k, 0.5003270373238773)
    return np.array([1.0, -2.0, 1.0]), denominator


def _over(numerator: np.ndarray, k: float, quality: float) -> tuple[np.ndarray, np.ndarray]:
    a0 = 1 + k / quality + k * k
    return numerator / a0, np.array([1.0, 2 * (k * k - 1) / a0, (1 - k / quality + k * k) / a0])


def _power(level: float) -> float:
    return 10.0 ** ((level + 0.691) / 10)


def _level(power: float) -> float:
    return -0.691 + 10 * math.log10(power)
