"""A page to read and to listen to: the tables, and some of the pieces of every bundle beside the real clips."""

import dataclasses
import html
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from melody_jax.errors import UserError
from melody_jax.evaluate.figures import Figure, lines
from melody_jax.evaluate.tables import Table
from melody_jax.files import write_whole
from melody_jax.generate.loudness import mastered
from melody_jax.generate.page import beside, document, player
from melody_jax.generate.picture import write_picture
from melody_jax.generate.sound_file import SoundFormat, write_sound
from melody_jax.shapes import Float

MUSIC = "music"
"""The folder of the sound files, beside the page."""
_STYLE = """
 table { border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto; margin: .5rem 0 2rem; }
 td, th { border-bottom: 1px solid #ddd; padding: .15rem .6rem .15rem 0; text-align: left; }
 .beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
"""


@dataclasses.dataclass(frozen=True)
class Heard:
    """A piece beside the clip whose caption it was made for.

    Attributes:
      prompt: the caption.
      made, real: [T].
      loudness: LUFS of the piece, to which the clip is brought, so that neither wins by being louder; None: as it is.
    """

    prompt: str
    made: Float[np.ndarray, " T"]
    real: Float[np.ndarray, " T"]
    loudness: float | None


def write_page(
    directory: pathlib.Path,
    reports: Mapping[str, tuple[Sequence[Figure], Sequence[Table]]],
    heard: Mapping[str, Sequence[Heard]],
    sample_rate: int,
    side_by_side: Table | None = None,
) -> None:
    """Writes `index.html`, and the music as ogg files with pictures below `music/`.

    Args:
      directory: of the page.
      reports: bundle -> figures and tables.
      heard: bundle -> its pieces, of the same prompts.
      sample_rate: Hz, of all music.
      side_by_side: of several bundles.

    Raises:
      UserError: it cannot be written.
    """
    try:
        body = "" if side_by_side is None else _table(side_by_side.title, side_by_side.lines(), side_by_side.note)
        body += "".join(_prompt(directory, index, heard, sample_rate) for index in range(max(map(len, heard.values()))))
        for bundle, (figures, tables) in reports.items():
            body += _table(f"{bundle}: held-out figures", lines(figures))
            body += "".join(_table(f"{bundle}: {table.title}", table.lines(), table.note) for table in tables)
        write_whole(directory / "index.html", document("melody evaluate", body, _STYLE))
    except OSError as error:
        raise UserError(f"the page cannot be written to {directory}: {error.strerror or error}") from None


def _prompt(directory: pathlib.Path, index: int, heard: Mapping[str, Sequence[Heard]], sample_rate: int) -> str:
    """A section: the clip and what every bundle made for its caption."""
    pieces = {bundle: given[index] for bundle, given in heard.items()}
    first = next(iter(pieces.values()))
    real, _ = mastered(first.real, sample_rate, first.loudness)
    columns = [("real clip", directory / MUSIC / f"{index:02d}.ogg", real)]
    columns += [(name, directory / MUSIC / name / f"{index:02d}.ogg", piece.made) for name, piece in pieces.items()]
    players = []
    for name, path, audio in columns:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sound(audio, sample_rate, path, SoundFormat("ogg"))
        write_picture(audio, sample_rate, beside(path)[0], name)
        players.append(f"<div>\n<p>{html.escape(name)}</p>\n{player(path, directory)}</div>\n")
    return (
        f'<article>\n<h2>{html.escape(first.prompt)}</h2>\n<div class="beside">\n{"".join(players)}</div>\n</article>\n'
    )


def _table(title: str, rows: Sequence[Sequence[str]], note: str = "") -> str:
    said = f"<p>{html.escape(note)}</p>\n" if note else ""
    kinds = ["th", *["td"] * (len(rows) - 1)]
    cells = [
        "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in row) for kind, row in zip(kinds, rows, strict=True)
    ]
    return (
        f"<h2>{html.escape(title)}</h2>\n{said}<table>\n" + "".join(f"<tr>{row}</tr>\n" for row in cells) + "</table>\n"
    )
