"""A page with a player for every piece of a folder. Imports no jax."""

import html
import os
import urllib.parse
from collections.abc import Sequence
from typing import Any

from melody_jax import storage
from melody_jax.files import whole_file
from melody_jax.storage import Path

_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>melody</title>
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
 article { margin: 0 0 2.5rem; } h2 { font-size: 1.1rem; margin: 0 0 .3rem; } p { margin: .3rem 0; color: #555; }
 audio, img { width: 100%; display: block; }
</style>
<h1>melody</h1>
"""


def write_page(path: str | os.PathLike, pieces: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """An HTML file beside the pieces: (sound file, what its JSON says) for each. Prompts are text, never markup."""
    folder = storage.path(path).parent
    articles = [_article(sound, info, folder) for sound, info in pieces]
    with whole_file(storage.path(path)) as scratch:
        scratch.write_text(_HEAD + "".join(articles) + "</html>\n", encoding="utf-8", errors="replace")


def _article(sound: Path, info: dict[str, Any], folder: Path) -> str:
    title = html.escape(str(info.get("prompt") or sound.stem))
    facts = [f"seed {info['seed']}"] if "seed" in info else []
    if info.get("similarity") is not None:
        facts.append(f"similarity {info['similarity']:.3f}")
    source, picture, settings = (_link(file, folder) for file in (sound, *beside(sound)))
    image = f'<img src="{picture}" alt="spectrogram" loading="lazy">\n' if beside(sound)[0].is_file() else ""
    return (
        f'<article>\n<h2>{title}</h2>\n<audio controls preload="none" src="{source}"></audio>\n{image}'
        f'<p>{html.escape(", ".join(facts))} · <a href="{settings}">settings</a></p>\n</article>\n'
    )


def beside(sound: Path) -> tuple[Path, Path]:
    """(picture, settings) of a sound file."""
    return sound.with_suffix(".png"), sound.with_suffix(".json")


def _link(file: Path, folder: Path) -> str:
    return html.escape(urllib.parse.quote(os.path.relpath(file, folder)))
