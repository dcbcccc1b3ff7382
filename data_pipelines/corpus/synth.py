"""Sound from tracks: a SoundFont synthesiser (TinySoundFont), a balance between lead and accompaniment, a level."""

import functools
import importlib.util
import os
import pathlib

import numpy as np

from data_pipelines.corpus.arrange import Arrangement, Track
from melody_jax.errors import lacking

_DRUM_CHANNEL = 9
_BELOW_LEAD = {"harmony": 5.0, "bass": 6.0, "drums": 8.0}  # decibels of RMS under the lead
_LEVEL = {"soft": -23.0, "moderate": -20.0, "loud": -17.5}  # RMS in decibels of full scale
_PEAK = 0.95
_FLUSH = 4800  # samples in which voices that were cut off die away


def default_font() -> str:
    """TimGM6mb.sf2 (GPL-2), which the package pretty_midi carries; found without importing it.

    Raises:
        UserError: pretty_midi is not installed.
    """
    spec = importlib.util.find_spec("pretty_midi")
    if spec is None or spec.origin is None:
        raise lacking("data", "the default SoundFont", "no pretty_midi")
    return str(pathlib.Path(spec.origin).parent / "TimGM6mb.sf2")


def font_licence(font: str) -> str:
    """What is known of a font's licence; fonts of the user's own are named by file."""
    known = {
        "TimGM6mb": "GPL-2",
        "FluidR3": "MIT",
        "MuseScore_General": "MIT",
    }
    stem = pathlib.Path(font).stem
    licence = next((licence for name, licence in known.items() if stem.startswith(name)), "unknown")
    return f"{stem} ({licence})"


@functools.lru_cache(maxsize=2)
def _synth(font: str, sample_rate: int):
    import tinysoundfont  # a native library, wanted only by those who render

    if not os.path.exists(font):
        raise FileNotFoundError(f"no SoundFont at {font}")
    synth = tinysoundfont.Synth(samplerate=sample_rate, gain=-8)
    synth.sfload(font, max_voices=64)
    return synth


def sound(arrangement: Arrangement, font: str, sample_rate: int, seconds: float) -> np.ndarray:
    """Renders an arrangement: float32 [T], mono, T = round(seconds * sample_rate), |x| <= 0.95.

    Lead, harmony, bass and drums are rendered apart and mixed at fixed ratios of loudness, so that the lead stands out
    with any font; then the whole is brought to the level of its dynamics.

    Raises:
        FileNotFoundError: no font at that path.
        ValueError: the arrangement is shorter than `seconds`, or renders to silence.
    """
    if seconds > arrangement.seconds:
        raise ValueError(
            f"the clip was specified for {arrangement.seconds} s, not {seconds} s: specify it with this length"
        )
    length = round(seconds * sample_rate)
    rng = np.random.default_rng(int(1000 * arrangement.tracks[0].notes[:, 1].sum()))
    mix = np.zeros(length, np.float32)
    lead = None
    for role in ("lead", "harmony", "bass", "drums"):
        tracks = [track for track in arrangement.tracks if track.role == role]
        if not tracks:
            continue
        stem = _stem(tracks, font, sample_rate, length)
        loudness = _loudness(stem, sample_rate)
        if lead is None:
            if loudness < 1e-5:
                names = ", ".join(track.instrument.name for track in tracks)
                raise ValueError(f"the font {font} renders {names} to silence")
            lead, gain = loudness, 1.0
        else:
            gain = lead / max(loudness, 1e-5) * 10 ** (-(_BELOW_LEAD[role] + rng.normal(0, 1)) / 20)
        mix += np.float32(min(gain, 30.0)) * stem
    level = 10 ** ((_LEVEL[arrangement.dynamics] + np.clip(rng.normal(0, 0.7), -1.5, 1.5)) / 20)
    mix *= min(level / _loudness(mix, sample_rate), _PEAK / max(float(np.abs(mix).max()), 1e-9))
    return mix.astype(np.float32)


def _loudness(x: np.ndarray, sample_rate: int) -> float:
    """RMS over the blocks of 0.1 s that are not silent: pauses do not make a track seem quiet."""
    block = max(sample_rate // 10, 1)
    power = np.square(x[: len(x) // block * block].reshape(-1, block)).mean(-1)
    loud = power[power > 1e-4 * max(power.max(), 1e-12)]
    return float(np.sqrt(loud.mean())) if len(loud) else 0.0


def _stem(tracks: list[Track], font: str, sample_rate: int, length: int) -> np.ndarray:
    """The tracks together, float32 [length], mono."""
    synth = _synth(font, sample_rate)
    channels = [channel for channel in range(16) if channel != _DRUM_CHANNEL]
    events = []
    for number, track in enumerate(tracks):
        drums = track.role == "drums"
        channel = _DRUM_CHANNEL if drums else channels[number]
        synth.program_change(channel, 0 if drums else track.instrument.program, drums)
        for onset, duration, pitch, velocity in track.notes.tolist():
            start = max(round(onset * sample_rate), 0)
            stop = max(round((onset + duration) * sample_rate), start + 1)
            # At one sample notes end before others begin: a repeated pitch must not be cut off by its forerunner.
            events.append((start, 1, channel, int(pitch), int(velocity)))
            events.append((stop, 0, channel, int(pitch), 0))
    events.sort()
    audio = np.zeros((length, 2), np.float32)
    view = audio.data.cast("B")
    at = 0
    for time, starts, channel, pitch, velocity in events:
        if time >= length:
            break
        if time > at:
            synth.generate_simple(time - at, view[8 * at : 8 * time])
            at = time
        if starts:
            synth.noteon(channel, pitch, velocity)
        else:
            synth.noteoff(channel, pitch)
    synth.generate_simple(length - at, view[8 * at :])
    synth.sounds_off()
    synth.generate_simple(_FLUSH)
    return audio.mean(-1)
