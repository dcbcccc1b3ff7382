"""Sine tones: sound files whose pitch says which file they came from."""

import json

import numpy as np
import soundfile

RATE = 8_000  # of the small data sets: their clips of 1 s keep the tests fast


def tone(pitch, seconds, rate, channels=1, level=0.3):
    """float64 [samples, channels]: a sine of `pitch` Hz."""
    wave = level * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)


def pitch_of(audio, rate):
    """Hz of the strongest partial of `audio` [T]."""
    return np.argmax(np.abs(np.fft.rfft(audio * np.hanning(len(audio))))) * rate / len(audio)


def write_music(folder, files, seconds=2.0, rate=RATE):
    """`files` captioned tones of different pitches, each with a tempo of its own in the JSON beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        soundfile.write(folder / f"tune{number:02d}.wav", tone(200 + 20 * number, seconds, rate), rate)
        (folder / f"tune{number:02d}.txt").write_text(f"tone number {number}\na sine of {200 + 20 * number} hertz\n")
        (folder / f"tune{number:02d}.json").write_text(json.dumps({"tempo": 60 + 4 * number, "metre": "3/4"}))
    return folder
