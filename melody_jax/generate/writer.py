"""What is written for a piece of music: PREFIX.wav, PREFIX.png (waveform, mel spectrogram), PREFIX.json (settings)."""

import dataclasses
import json
import os
import pathlib
import wave
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from melody_jax import dsp
from melody_jax.bundle.bundle import Bundle
from melody_jax.generate.pipeline import Result
from melody_jax.shapes import Float


def write_result(result: Result, wav: str | os.PathLike, bundle: Bundle) -> list[pathlib.Path]:
    """Writes the three files and returns their paths, the wav first."""
    wav = pathlib.Path(wav)
    paths = [wav, wav.with_suffix(".png"), wav.with_suffix(".json")]
    write_wav(result.audio, result.sample_rate, paths[0])
    write_picture(result.audio, result.sample_rate, paths[1], result.prompt)
    paths[2].write_text(json.dumps(describe(result, bundle), indent=1) + "\n")
    return paths


def write_wav(audio: Float[np.ndarray, " T"], sample_rate: int, path: str | os.PathLike) -> None:
    """Mono, 16 bit; the same samples give the same bytes."""
    samples = np.round(np.clip(audio, -1.0, 1.0) * 32767.0).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.tobytes())


def write_picture(audio: Float[np.ndarray, " T"], sample_rate: int, path: str | os.PathLike, title: str) -> None:
    """Waveform above log-mel spectrogram, PNG."""
    # matplotlib takes half a second to import, and only pictures need it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = len(audio) / sample_rate
    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    wave_axes, mel_axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3])
    wave_axes.plot(np.arange(len(audio)) / sample_rate, audio, linewidth=0.3)
    wave_axes.set(ylim=(-1, 1), ylabel="amplitude", title=title[:120])
    image = mel_axes.imshow(
        _log_mel(audio, sample_rate).T,
        origin="lower",
        aspect="auto",
        extent=(0.0, seconds, 0.0, 128.0),
        vmin=-11.5,
        vmax=3.0,
        cmap="magma",
    )
    mel_axes.set(xlabel="seconds", ylabel=f"mel band (0 to {sample_rate // 2} Hz)")
    figure.colorbar(image, ax=mel_axes, label="log magnitude")
    figure.savefig(path, dpi=100)


def _log_mel(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    padded = np.pad(audio, (0, max(0, 1024 - len(audio))))  # the analysis window is longer than the shortest music
    return np.asarray(dsp.log_mel(jnp.asarray(padded), sample_rate, 1024, 256, 128))


def describe(result: Result, bundle: Bundle) -> dict[str, Any]:
    """Everything that is needed to make this piece again, and what making it took; JSON-able."""
    seconds = len(result.audio) / result.sample_rate
    work = sum(result.times.values())
    return {
        "prompt": result.prompt,
        "seed": result.seed,
        "settings": dataclasses.asdict(result.settings),
        "sample_rate": result.sample_rate,
        "samples": len(result.audio),
        "seconds": seconds,
        "token_counts": {
            "mulan": len(result.mulan),
            "semantic": len(result.tokens),
            "latent_frames": result.latent_frames,
        },
        "mulan_codes": result.mulan.tolist(),
        "semantic_codes": result.tokens.tolist(),
        "similarity": result.similarity,
        "batch": result.batch,
        "work_seconds": _rounded(result.times) | {"total": round(work, 4)},
        "real_time_factor": round(result.batch * seconds / work, 3),
        "bundle": {"directory": str(bundle.directory), "parts": bundle.ids},
    }


def _rounded(times: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in times.items()}
