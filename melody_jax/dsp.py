"""Signal processing on the last axis: framing, STFT and its inverse, mel spectrograms. All float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.shapes import Array, Bool, Complex, Float


def frame(x: Float[Array, "*b T"], size: int, hop: int) -> Float[Array, "*b F size"]:
    """Overlapping frames, F = 1 + (T - size) // hop, without padding.

    When hop divides size this concatenates shifted reshapes, which XLA compiles to copies instead of a gather.
    """
    count = 1 + (x.shape[-1] - size) // hop
    if size % hop:
        index = np.arange(count)[:, None] * hop + np.arange(size)[None, :]
        return x[..., index]
    ratio = size // hop
    blocks = x[..., : (count + ratio - 1) * hop].reshape(*x.shape[:-1], count + ratio - 1, hop)
    return jnp.concatenate([blocks[..., i : i + count, :] for i in range(ratio)], axis=-1)


def overlap_add(frames: Float[Array, "*b F size"], hop: int) -> Float[Array, "*b T"]:
    """The adjoint of `frame` for hops that divide the frame: T = (F - 1) * hop + size.

    Raises:
      ValueError: `hop` does not divide the frame size.
    """
    count, size = frames.shape[-2:]
    if size % hop:
        raise ValueError(f"overlap_add: hop {hop} does not divide the frame size {size}")
    ratio = size // hop
    blocks = frames.reshape(*frames.shape[:-1], ratio, hop)
    lead = [(0, 0)] * (frames.ndim - 2)
    shifted = [jnp.pad(blocks[..., i, :], [*lead, (i, ratio - 1 - i), (0, 0)]) for i in range(ratio)]
    return sum(shifted[1:], shifted[0]).reshape(*frames.shape[:-2], (count + ratio - 1) * hop)


@functools.lru_cache
def hann(size: int, win: int | None = None) -> np.ndarray:
    """Periodic Hann window of `win` samples (default `size`), centred in `size`; float32."""
    win = win or size
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win) / win)
    left = (size - win) // 2
    return np.pad(window, (left, size - win - left)).astype(np.float32)


def stft(x: Float[Array, "*b T"], fft: int, hop: int, win: int | None = None) -> Complex[Array, "*b F bins"]:
    """Short-time Fourier transform, periodic Hann, centred with reflection; F = 1 + T // hop, bins = fft // 2 + 1."""
    lead = [(0, 0)] * (x.ndim - 1)
    padded = jnp.pad(x.astype(jnp.float32), [*lead, (fft // 2, fft // 2)], mode="reflect")
    return jnp.fft.rfft(_windowed(frame(padded, fft, hop), win))


def centred_stft(x: Float[Array, "*b T"], fft: int, hop: int) -> Complex[Array, "*b F bins"]:
    """Spectra of periodic Hann windows centred on every hop of x, zeros around it: exactly F = T // hop frames."""
    pad = (fft - hop) // 2
    padded = jnp.pad(x.astype(jnp.float32), [(0, 0)] * (x.ndim - 1) + [(pad, pad)])
    return jnp.fft.rfft(_windowed(frame(padded, fft, hop)))


def centred_istft(spectrum: Complex[Array, "*b F bins"], hop: int) -> Float[Array, "*b T"]:
    """Least-squares inverse of `centred_stft`, T = F * hop."""
    pad = (2 * (spectrum.shape[-1] - 1) - hop) // 2
    return _least_squares(spectrum, hop)[..., pad : pad + spectrum.shape[-2] * hop]


def _windowed(frames: Float[Array, "*b F size"], win: int | None = None) -> Float[Array, "*b F size"]:
    """Frames times their Hann window."""
    size = frames.shape[-1]
    return frames * jnp.asarray(hann(size, win)).reshape((1,) * (frames.ndim - 1) + (size,))


def _least_squares(spectrum: Complex[Array, "*b F bins"], hop: int) -> Float[Array, "*b T"]:
    """The padded signal whose windowed frames are nearest to these spectra (Griffin and Lim, 1984, eq. 6)."""
    fft = 2 * (spectrum.shape[-1] - 1)
    signal = overlap_add(_windowed(jnp.fft.irfft(spectrum, n=fft)), hop)
    power = _window_power(spectrum.shape[-2], fft, hop)
    return signal / jnp.asarray(power).reshape((1,) * (signal.ndim - 1) + power.shape)


def griffin_lim(
    magnitude: Float[Array, "*b F bins"],
    phases: Float[Array, "*b F bins"],
    hop: int,
    iterations: int,
    momentum: float = 0.99,
    known: Float[Array, "*b T"] | None = None,
    fixed: Bool[Array, "*b T"] | None = None,
) -> Float[Array, "*b T"]:
    """A signal whose `centred_stft` has magnitudes as near to these as possible, T = F * hop.

    Perraudin, Balazs and Sondergaard, "A fast Griffin-Lim algorithm" (2013): alternating projections on the spectra of
    these magnitudes and on those of signals, c_n, with t_n = c_n + momentum (c_n - c_(n-1)), from the given phases on.

    Samples of `known` that are `fixed` stay what they are, and the others go on from them.
    """
    fft = 2 * (magnitude.shape[-1] - 1)

    def signal_of(spectrum: Array) -> Array:
        signal = centred_istft(spectrum, hop)
        return signal if known is None or fixed is None else jnp.where(fixed, known, signal)

    def with_magnitude(spectrum: Array) -> Array:
        return spectrum * (magnitude / jnp.maximum(jnp.abs(spectrum), 1e-9)).astype(spectrum.dtype)

    def iteration(_, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        accelerated, before = carry
        consistent = centred_stft(signal_of(with_magnitude(accelerated)), fft, hop)
        return consistent + jnp.asarray(momentum, consistent.dtype) * (consistent - before), consistent

    first = jax.lax.complex(magnitude * jnp.cos(phases), magnitude * jnp.sin(phases))
    first = centred_stft(signal_of(first), fft, hop)
    spectrum, _ = jax.lax.fori_loop(0, iterations, iteration, (first, first))
    return signal_of(with_magnitude(spectrum))


def running_phases(
    magnitude: Float[Array, "F bins"],
    hop: int,
    known: Float[Array, "F bins"] | None = None,
    fixed: Bool[Array, " F"] | None = None,
) -> Float[Array, "F bins"]:
    """Phases of partials that run on at their own frequencies from frame to frame (Beauregard, Harish and Wyse, "Single
    pass spectrogram inversion", 2015).

    Each bin belongs to the nearest peak of its frame, whose frequency is read from a parabola through it and its
    neighbours; bins of a peak have its phase, with the alternating signs of a window that is centred in its frame. Frames
    that are `fixed` have the `known` phases, and partials run on from these.
    """
    bins = magnitude.shape[-1]
    number = jnp.arange(bins)[None]
    level = jnp.log(magnitude + 1e-6)
    below, above = (jnp.pad(level[:, side], ((0, 0), pad), constant_values=1e9) for side, pad in _NEIGHBOURS)
    peak = (level > below) & (level >= above)
    bend = jnp.minimum(below - 2 * level + above, -1e-6)
    frequency = number.astype(jnp.float32) + jnp.clip(0.5 * (below - above) / bend, -0.5, 0.5)
    left = jax.lax.cummax(jnp.where(peak, number, -bins), axis=1)
    right = jax.lax.cummin(jnp.where(peak, number, 2 * bins), axis=1, reverse=True)
    owner = jnp.where(number - left <= right - number, left, right)
    owner = jnp.where((owner >= 0) & (owner < bins), owner, number)
    frequency = jnp.take_along_axis(frequency, owner, axis=1)
    turn = 2 * jnp.pi * frequency * (hop / (2 * (bins - 1))) + jnp.pi * (number - owner).astype(jnp.float32)

    def step(phase: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        owner, turn, given, stays = inputs
        phase = jnp.where(stays, given, jnp.remainder(phase[owner] + turn, 2 * jnp.pi))
        return phase, phase

    # spread, so that partials do not begin as a click
    start = jnp.remainder(number[0].astype(jnp.float32) * (2 * jnp.pi * 0.618034), 2 * jnp.pi)
    given = jnp.zeros_like(magnitude) if known is None else known
    stays = jnp.zeros(magnitude.shape[:1], bool) if fixed is None else fixed
    _, phases = jax.lax.scan(step, start, (owner, turn, given, stays))
    return phases


_NEIGHBOURS = ((slice(None, -1), (1, 0)), (slice(1, None), (0, 1)))


@functools.lru_cache
def _window_power(count: int, fft: int, hop: int) -> np.ndarray:
    """Sum of the squared, shifted windows under `count` frames: what overlap-add must be divided by."""
    power = np.zeros((count - 1) * hop + fft, np.float32)
    for i in range(count):
        power[i * hop : i * hop + fft] += hann(fft) ** 2
    return np.maximum(power, 1e-8)


@functools.lru_cache
def mel_filterbank(sample_rate: int, fft: int, mels: int, fmin: float = 0.0, fmax: float | None = None) -> np.ndarray:
    """Slaney-style triangular mel filters of unit area, [fft // 2 + 1, mels], float32 (Slaney, Auditory Toolbox, 1998)."""
    edges = _mel_to_hz(np.linspace(_hz_to_mel(fmin), _hz_to_mel(fmax or sample_rate / 2), mels + 2))
    bins = np.linspace(0, sample_rate / 2, fft // 2 + 1)
    rise = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0.0, np.minimum(rise, fall))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))).astype(np.float32)


def _hz_to_mel(hz):
    """Linear below 1 kHz, logarithmic above: 15 mels at 1 kHz, 27 more up to 6.4 kHz."""
    hz = np.asarray(hz, np.float64)
    return np.where(hz < 1000, hz * 3 / 200, 15 + np.log(np.maximum(hz, 1e-9) / 1000) * 27 / np.log(6.4))


def _mel_to_hz(mel):
    mel = np.asarray(mel, np.float64)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


@functools.lru_cache
def log_frequency_bank(sample_rate: int, fft: int, bands: int, lowest_hz: float, per_octave: int) -> np.ndarray:
    """Triangular filters of unit sum, `per_octave` to an octave from `lowest_hz` up, [fft // 2 + 1, bands], float32.

    Each reaches to its neighbours' centres, but at least to the next bin, so that low bands are not empty.
    """
    centres = lowest_hz * 2.0 ** (np.arange(bands) / per_octave)
    bins = np.arange(fft // 2 + 1) * sample_rate / fft
    reach = np.maximum(centres * (2.0 ** (1 / per_octave) - 1), sample_rate / fft)
    triangles = np.maximum(0.0, 1.0 - np.abs(bins[:, None] - centres) / reach)
    return (triangles / np.maximum(triangles.sum(0), 1e-9)).astype(np.float32)


def log_frequency(
    x: Float[Array, "*b T"],
    sample_rate: int,
    fft: int,
    hop: int,
    bands: int,
    lowest_hz: float,
    per_octave: int,
    depth: float,
) -> Float[Array, "*b F bands"]:
    """What sounds in each band of a logarithmic frequency axis, in nats below the frame's loudest band; F = T // hop.

    Windows of `fft` samples are centred on every hop. From 0 for the loudest band down to -depth: how loud a frame is does
    not count, which notes it holds does. Silence is flat.
    """
    bank = jnp.asarray(log_frequency_bank(sample_rate, fft, bands, lowest_hz, per_octave))
    magnitude = jnp.abs(centred_stft(x, fft, hop)) * (400.0 / fft)
    level = jnp.log(magnitude @ bank + 0.01)
    return jnp.maximum(level - jnp.max(level, axis=-1, keepdims=True), -depth)


def log_mel(x: Float[Array, "*b T"], sample_rate: int, fft: int, hop: int, mels: int) -> Float[Array, "*b F M"]:
    """Natural logarithm of (mel magnitude + 1e-5), F = 1 + T // hop frames."""
    magnitude = jnp.abs(stft(x, fft, hop))
    return jnp.log(magnitude @ jnp.asarray(mel_filterbank(sample_rate, fft, mels)) + 1e-5)
