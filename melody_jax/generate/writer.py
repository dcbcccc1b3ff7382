"""What is written for a piece of music: the sound, PREFIX.png (a picture) and PREFIX.json (all that makes it again)."""

import contextlib
import dataclasses
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from melody_jax import __version__, storage
from melody_jax.bundle.bundle import Bundle
from melody_jax.files import whole_file
from melody_jax.generate.page import beside
from melody_jax.generate.picture import write_picture
from melody_jax.generate.result import Result
from melody_jax.generate.sound_file import RATES, SoundFormat, read_music, write_sound
from melody_jax.storage import Path


def write_result(
    result: Result,
    path: str | os.PathLike,
    bundle: Bundle,
    form: SoundFormat | None = None,
    more: Mapping[str, Any] | None = None,
    new: bool = False,
) -> list[Path]:
    """Writes the files of a piece, the sound first, and returns the paths of those that are there.

    A picture or settings that cannot be written cost a warning, not the music.

    Args:
      form: of the sound file; as its name ends if None.
      more: added to the JSON.
      new: raise FileExistsError where there is such a sound file by then.

    Raises:
      OSError: the sound cannot be written.
    """
    path = storage.path(path)
    form = form or SoundFormat(path.suffix.lower().lstrip(".") or "wav")
    picture, settings = beside(path)
    text = json.dumps(describe(result, bundle) | dict(more or {}), indent=1) + "\n"
    written: list[Path] = []
    ready = contextlib.ExitStack()
    with _costs_a_warning(settings), contextlib.ExitStack() as opening:
        opening.enter_context(whole_file(settings)).write_text(text)
        ready = opening.pop_all()
    try:
        with ready:  # the settings get their name right after the sound: a kill leaves both or neither
            write_sound(result.audio, result.sample_rate, path, form, tags(result, bundle), new)
            written.append(path)
    except Exception as error:
        if not written:
            raise
        _warn(settings, error)
    with _costs_a_warning(picture):
        write_picture(result.audio, result.sample_rate, picture, result.prompt)
    return [*written, *(file for file in (picture, settings) if file.is_file())]


def draw(path: Path, said: Mapping[str, Any]) -> None:
    """Draws the picture of a piece from its sound file, at the rate that its settings `said` name.

    One that cannot be drawn costs a warning.
    """
    picture, _ = beside(path)
    with _costs_a_warning(picture):
        rate = said.get("sample_rate", RATES[0])
        write_picture(read_music(path, rate), rate, picture, str(said.get("prompt") or path.stem))


@contextlib.contextmanager
def _costs_a_warning(file: Path) -> Iterator[None]:
    """Around the making of `file`: whatever fails, the music is worth more."""
    try:
        yield
    except Exception as error:
        _warn(file, error)


def _warn(file: Path, error: Exception) -> None:
    warnings.warn(f"{file} was not written: {' '.join(str(error).split())}", stacklevel=4)


def tags(result: Result, bundle: Bundle) -> dict[str, str]:
    """What the sound file says of itself."""
    made = {
        "prompt": result.prompt[:500],
        "seed": result.seed,
        "candidate": result.candidate,
        "bundle": bundle_id(bundle),
    }
    return {"title": result.prompt[:200], "software": f"melody_jax {__version__}", "comment": json.dumps(made)}


def bundle_id(bundle: Bundle) -> str:
    """The ids of what makes tokens and latents, shortened: enough to tell bundles apart."""
    return "-".join(bundle.ids[name][:8] for name in ("lm", "dpd"))


def describe(result: Result, bundle: Bundle) -> dict[str, Any]:
    """Everything that is needed to make this piece again, and what making it took; JSON-able."""
    work = sum(result.times.values())
    return {
        "prompt": result.prompt,
        "seed": result.seed,
        "candidate": result.candidate,
        "call": result.call,
        "settings": dataclasses.asdict(result.settings),
        "sample_rate": result.sample_rate,
        "samples": len(result.audio),
        "seconds": result.seconds,
        "token_counts": {
            "mulan": len(result.mulan),
            "semantic": len(result.tokens),
            "latent_frames": result.latent_frames,
        },
        "mulan_codes": result.mulan.tolist(),
        "semantic_codes": result.tokens.tolist(),
        "similarity": result.similarity,
        "lufs": None if result.lufs is None else dict(zip(("before", "after"), map(_finite, result.lufs), strict=True)),
        "batch": result.batch,
        "work_seconds": _rounded(result.times) | {"total": round(work, 4)},
        "real_time_factor": round(result.batch * result.seconds / work, 3),
        "bundle": {"directory": str(bundle.directory), "parts": bundle.ids},
    }


def _finite(level: float) -> float | None:
    return round(level, 2) if level > -1000 else None  # JSON knows no infinity


def _rounded(times: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in times.items()}
