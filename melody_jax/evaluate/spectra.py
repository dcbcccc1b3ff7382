"""What the judges of notes listen to: log-frequency spectra, chroma and onset strength of clips. NumPy only, on the host.

Frame i of the spectra is centred at (i + 1/2) / FRAME_RATE seconds, in the middle of semantic token i at 25 Hz.
"""

import functools

import numpy as np
import scipy.fft

from melody_jax.shapes import Float

FRAME_RATE = 25
WINDOW = 4096
LOWEST = 36  # MIDI pitch of the lowest band: C2
BANDS_PER_SEMITONE = 2
BANDS = 144
FLOOR = -6.0  # nats below the loudest band of a frame
FLUX_RATE = 100  # frames of onset strength per second
FLUX_WINDOW = 1024
CHUNK = 2048  # frames transformed at once


def bands(audio: Float[np.ndarray, "n T"], sample_rate: int) -> Float[np.ndarray, "n F bands"]:
    """log(magnitude + 0.01) of half-semitone bands from C2 up, F = T * FRAME_RATE / sample_rate (rounded down).

    Bands below the resolution of the window share its bins.
    """
    hop = sample_rate // FRAME_RATE
    magnitude = _magnitude(audio, WINDOW, hop) @ _filters(sample_rate)
    return np.log(magnitude + 0.01)


def relative(log_bands: Float[np.ndarray, "*b bands"]) -> Float[np.ndarray, "*b bands"]:
    """Bands relative to the loudest of their frame, in nats, cut at FLOOR: no level, no noise floor."""
    return np.maximum(log_bands - log_bands.max(-1, keepdims=True), FLOOR)


def chroma(log_bands: Float[np.ndarray, "*b bands"]) -> Float[np.ndarray, "*b 12"]:
    """Magnitude in each pitch class, C first, of `bands`; up to C8."""
    return np.maximum(np.exp(log_bands) - 0.01, 0.0) @ _fold()


def onset_strength(audio: Float[np.ndarray, "n T"], sample_rate: int) -> Float[np.ndarray, "n F"]:
    """Spectral flux, FLUX_RATE frames a second: mean rise of log bands over two frames (20 ms).

    Each band is compared with the loudest of its neighbours before, so that vibrato is no onset (Böck and Widmer,
    "Maximum filter vibrato suppression for onset detection", 2013).
    """
    hop = sample_rate // FLUX_RATE
    magnitude = _magnitude(audio, FLUX_WINDOW, hop) @ _coarse_filters(sample_rate)
    level = np.log1p(magnitude)
    before = np.maximum(level, np.maximum(np.roll(level, 1, -1), np.roll(level, -1, -1)))
    lag = 2
    rise = np.maximum(level[:, lag:] - before[:, :-lag], 0.0).mean(-1)
    rise[:, -(FLUX_WINDOW // hop) :] = 0.0  # the end of a clip cuts its sounds off, which starts nothing
    return np.pad(rise, ((0, 0), (lag, 0)))


def _magnitude(audio: np.ndarray, window: int, hop: int) -> Float[np.ndarray, "n F bins"]:
    """Magnitudes of Hann windows centred on the middle of each hop, T // hop frames."""
    count = audio.shape[1] // hop
    pad = (window - hop) // 2
    padded = np.pad(audio.astype(np.float32), ((0, 0), (pad, window)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window, axis=1)[:, ::hop][:, :count]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)
    out = np.empty((*frames.shape[:2], window // 2 + 1), np.float32)
    for clip in range(len(frames)):
        for at in range(0, count, CHUNK):
            spectrum = scipy.fft.rfft(frames[clip, at : at + CHUNK] * hann, axis=-1)
            out[clip, at : at + CHUNK] = np.abs(np.asarray(spectrum))
    return out


def _triangles(centres: np.ndarray, half: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Triangles of unit sum around `centres` with these half widths (Hz), [bins, bands]."""
    weights = np.maximum(0.0, 1 - np.abs(frequencies[:, None] - centres) / half)
    return (weights / np.maximum(weights.sum(0), 1e-9)).astype(np.float32)


@functools.lru_cache
def _filters(sample_rate: int) -> np.ndarray:
    frequencies = np.arange(WINDOW // 2 + 1) * sample_rate / WINDOW
    centres = _hertz(LOWEST + np.arange(BANDS) / BANDS_PER_SEMITONE)
    half = np.maximum(centres * (2 ** (1 / (12 * BANDS_PER_SEMITONE)) - 1), sample_rate / WINDOW)
    return _triangles(centres, half, frequencies)


@functools.lru_cache
def _coarse_filters(sample_rate: int) -> np.ndarray:
    """Third-octave-and-finer bands for onsets: one for every semitone that the short window resolves."""
    frequencies = np.arange(FLUX_WINDOW // 2 + 1) * sample_rate / FLUX_WINDOW
    centres = _hertz(np.arange(36, 124, 1.0))
    half = np.maximum(centres * (2 ** (1 / 12) - 1), sample_rate / FLUX_WINDOW)
    return _triangles(centres, half, frequencies)


def _hertz(pitch: np.ndarray) -> np.ndarray:
    return 440.0 * 2 ** ((pitch - 69) / 12)


@functools.lru_cache
def _fold() -> np.ndarray:
    """From bands to pitch classes: a band on a note belongs to it, a band between two notes half to each."""
    semitones = LOWEST + np.arange(BANDS) / BANDS_PER_SEMITONE
    distance = np.abs((semitones[:, None] - np.arange(12) + 6) % 12 - 6)
    return np.maximum(0.0, 1 - distance).astype(np.float32)
