"""A picture of music: its waveform above what sounds in each quarter of a semitone."""

import io
import os

import numpy as np

from melody_jax import storage
from melody_jax.files import whole_file
from melody_jax.shapes import Float

LOWEST_HZ = 55.0
_PER_OCTAVE = 48
_COLUMNS = 900
_DEPTH = 70.0  # dB
_TICKS = (55, 110, 220, 440, 880, 1760, 3520, 7040, 14080)


def write_picture(audio: Float[np.ndarray, " T"], sample_rate: int, path: str | os.PathLike, title: str) -> None:
    """A PNG of some tens of kilobytes. The title is text: nothing in it is markup."""
    # matplotlib takes half a second to import, and only pictures need it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    seconds = len(audio) / sample_rate
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    wave_axes, notes_axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 4])
    lows, highs = _envelope(audio)
    wave_axes.fill_between(np.linspace(0, seconds, len(lows)), lows, highs, linewidth=0.5)
    wave_axes.set(ylim=(-1, 1), yticks=[])
    wave_axes.set_title(title[:110], parse_math=False, fontsize=10)
    levels = log_spectrogram(audio, sample_rate)
    top = LOWEST_HZ * 2.0 ** (levels.shape[1] / _PER_OCTAVE)
    times = np.linspace(0, seconds, levels.shape[0] + 1)
    bands = LOWEST_HZ * 2.0 ** (np.arange(levels.shape[1] + 1) / _PER_OCTAVE)
    mesh = notes_axes.pcolormesh(times, bands, levels.T, vmin=-_DEPTH, vmax=0.0, cmap="magma", rasterized=True)
    notes_axes.set(yscale="log", ylim=(LOWEST_HZ, top), xlabel="seconds", ylabel="Hz")
    ticks = [hz for hz in _TICKS if hz <= top]
    notes_axes.set_yticks(ticks, [str(hz) for hz in ticks])
    notes_axes.minorticks_off()
    figure.colorbar(mesh, ax=notes_axes, label="dB")
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(96)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    with whole_file(storage.path(path)) as scratch:
        scratch.write_bytes(buffer.getvalue())


def log_spectrogram(audio: Float[np.ndarray, " T"], sample_rate: int) -> Float[np.ndarray, "F bands"]:
    """dB below the loudest, in bands of a quarter of a semitone from `LOWEST_HZ` to half the sample rate.

    Three windows, long for low notes and short for high ones, so that notes are lines and onsets are edges.
    """
    bands = int(_PER_OCTAVE * np.log2(sample_rate / 2 / LOWEST_HZ))
    centres = LOWEST_HZ * 2.0 ** ((np.arange(bands) + 0.5) / _PER_OCTAVE)
    columns = int(np.clip(len(audio) * 50 / sample_rate, 20, _COLUMNS))
    middles = (np.arange(columns) + 0.5) * len(audio) / columns
    power = np.zeros((columns, bands))
    for seconds, lowest, highest in ((0.25, 0.0, 300.0), (0.12, 300.0, 1200.0), (0.06, 1200.0, np.inf)):
        chosen = (centres >= lowest) & (centres < highest)
        if not chosen.any():
            continue
        size = round(seconds * sample_rate)
        padded = np.pad(audio.astype(np.float64), size)
        window = np.hanning(size + 2)[1:-1]
        fft = 1 << (2 * size - 1).bit_length()
        starts = np.round(middles + size / 2).astype(int)
        at = np.interp(centres[chosen] * fft / sample_rate, np.arange(fft // 2 + 1), np.arange(fft // 2 + 1))
        for block in range(0, columns, 64):
            frames = np.stack([padded[start : start + size] for start in starts[block : block + 64]]) * window
            spectrum = np.abs(np.fft.rfft(frames, fft)) / window.sum()
            low = np.floor(at).astype(int)
            share = at - low
            high = np.minimum(low + 1, fft // 2)
            power[block : block + 64, chosen] = (1 - share) * spectrum[:, low] + share * spectrum[:, high]
    level = 20 * np.log10(power + 1e-9)
    return np.maximum(level - max(level.max(), -120.0), -_DEPTH)


def _envelope(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest sample of every column."""
    edges = np.linspace(0, len(audio), min(_COLUMNS, len(audio)) + 1).astype(int)[:-1]
    return np.minimum.reduceat(audio, edges), np.maximum.reduceat(audio, edges)
