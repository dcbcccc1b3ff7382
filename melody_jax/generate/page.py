"""A page with a player for every piece of a folder. Imports no jax."""

import html
import os
import urllib.parse
from collections.abc import Sequence
from typing import Any

from melody_jax import storage
from melody_jax.files import whole_file
from melody_jax.storage import Path

_STYLE = """
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
 article { margin: 0 0 2.5rem; } h2 { font-size: 1.1rem; margin: 0 0 .3rem; } p { margin: .3rem 0; color: #555; }
 audio, img { width: 100%; display: block; }
"""


def document(title: str, body: str, style: str = "") -> str:
    """A whole HTML page that needs nothing from elsewhere; `style` is CSS of its own."""
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}{style}</style>\n<h1>{html.escape(title)}</h1>\n"
        f"{body}</html>\n"
    )


def write_page(path: str | os.PathLike, pieces: Sequence[tuple[Path, dict[str, Any]]], new: bool = False) -> None:
    """An HTML file beside the pieces: (sound file, what its JSON says) for each. Prompts are text, never markup.

    Raises FileExistsError where the page is to be `new` and there is one by then.
    """
    folder = storage.path(path).parent
    articles = [_article(sound, info, folder) for sound, info in pieces]
    with whole_file(storage.path(path), new) as scratch:
        scratch.write_text(document("melody", "".join(articles)), encoding="utf-8", errors="replace")


def _article(sound: Path, info: dict[str, Any], folder: Path) -> str:
    title = html.escape(str(info.get("prompt") or sound.stem))
    facts = [f"seed {info['seed']}"] if "seed" in info else []
    if info.get("similarity") is not None:
        facts.append(f"similarity {info['similarity']:.3f}")
    settings = _link(beside(sound)[1], folder)
    return (
        f"<article>\n<h2>{title}</h2>\n{player(sound, folder)}"
        f'<p>{html.escape(", ".join(facts))} · <a href="{settings}">settings</a></p>\n</article>\n'
    )


def player(sound: Path, folder: Path) -> str:
    """HTML of a player and of the picture beside the sound file, where there is one, for a page in `folder`."""
    picture = beside(sound)[0]
    image = f'<img src="{_link(picture, folder)}" alt="spectrogram" loading="lazy">\n' if picture.is_file() else ""
    return f'<audio controls preload="none" src="{_link(sound, folder)}"></audio>\n{image}'


def beside(sound: Path) -> tuple[Path, Path]:
    """(picture, settings) of a sound file."""
    return sound.with_suffix(".png"), sound.with_suffix(".json")


def _link(file: Path, folder: Path) -> str:
    return html.escape(urllib.parse.quote(os.path.relpath(file, folder)))
