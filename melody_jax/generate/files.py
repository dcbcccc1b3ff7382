"""The files of pieces: their names, found free and writable before the work, and each written as soon as it exists."""

import re
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tqdm

from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.generate.page import beside, write_page
from melody_jax.generate.replay import read_file
from melody_jax.generate.sound_file import SUBTYPES, SoundFormat

if TYPE_CHECKING:
    from melody_jax.generate import Melody, Result


class Files:
    """Where each piece goes; each is written, and said, as soon as it exists.

    Args:
      titles: one for each piece.
      out: a name that ends as sound files do, or a folder.
      kind: of the sound files; None for what `out` ends in, else wav.
      bits, rate: see `SoundFormat`.
      overwrite: files that are there are replaced.
      skip_existing: pieces that are there are not wanted.
      keep_all: every candidate is written.
      html: a page with a player for each piece is written too.

    Attributes:
      wanted: indices of the pieces that are to be made.

    Raises:
      UserError: a name of something else, files that are there and may not be replaced, a folder that cannot be written.
    """

    def __init__(
        self,
        titles: Sequence[str],
        out: str,
        *,
        kind: str | None = None,
        bits: int = 16,
        rate: int | None = None,
        overwrite: bool = False,
        skip_existing: bool = False,
        keep_all: bool = False,
        html: bool = False,
    ):
        place = storage.path(out)
        ending = place.suffix.lower().lstrip(".")
        self.form = SoundFormat(kind or (ending if ending in SUBTYPES else "wav"), bits, rate)
        self._paths = _paths(place, titles, self.form.kind)
        self._keep_all, self._html = keep_all, html
        self._pieces: list[tuple[storage.Path, dict[str, Any]]] = []
        there = [i for i, path in enumerate(self._paths) if path.exists()]
        if overwrite and skip_existing:
            raise UserError("--overwrite and --skip_existing exclude each other")
        if there and not (overwrite or skip_existing):
            others = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise UserError(
                f"{self._paths[there[0]]}{others} exists; --overwrite replaces it, --skip_existing makes the others"
            )
        self.wanted = [i for i in range(len(self._paths)) if not (skip_existing and i in there)]
        _try(self._paths)
        if self._html:
            self._pieces = [(path, _said(path)) for i, path in enumerate(self._paths) if i not in self.wanted]

    @property
    def folder(self) -> storage.Path:
        """Where they go."""
        return self._paths[0].parent

    def write(self, melody: "Melody", index: int, result: "Result", file: str | None = None) -> None:
        """Writes a piece (`index` counts all of them), prints a line, and brings the page up to date.

        Args:
          file: where the music came from that it was made of.

        Raises:
          UserError: it cannot be written.
        """
        from melody_jax.generate.writer import write_result

        path = self._paths[index]
        kept = [(path, result)]
        if self._keep_all:
            kept += [(path.with_stem(f"{path.stem}-candidate-{piece.candidate}"), piece) for piece in result.others]
        for place, piece in kept:
            more = {} if file is None else {"call": {**piece.call, "file": file}}
            try:
                write_result(piece, place, melody.bundle, self.form, more)
            except OSError as error:
                raise UserError(f"cannot write {place}: {error}") from None
            score = "" if piece.similarity is None else f"  {piece.similarity:.3f}"
            _say(f"{place}{score}  {piece.prompt}")
            self._pieces.append((place, {"prompt": piece.prompt, "seed": piece.seed, "similarity": piece.similarity}))
        if self._html:
            try:
                write_page(self.folder / "index.html", self._pieces)
            except OSError as error:
                warnings.warn(f"{self.folder / 'index.html'} was not written: {error}", stacklevel=2)


def _say(line: str) -> None:
    """Prints above the bar, also what the terminal's encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    tqdm.tqdm.write(line.rstrip().encode(encoding, "replace").decode(encoding), sys.stdout)


def _said(path: storage.Path) -> dict[str, Any]:
    try:
        return read_file(beside(path)[1])
    except UserError:
        return {}


def _paths(out: storage.Path, titles: Sequence[str], kind: str) -> list[storage.Path]:
    """One path per piece."""
    ending = out.suffix.lower().lstrip(".")
    if ending == kind:
        return [out] if len(titles) == 1 else [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(len(titles))]
    if ending in SUBTYPES:
        raise UserError(f"--out {out} is a name of {ending}, but --format says {kind}")
    if out.suffix and not out.is_dir():
        names = ", ".join(f".{name}" for name in SUBTYPES)
        raise UserError(f"--out {out}: give a name that ends in {names}, or a folder")
    width = len(str(len(titles) - 1))
    return [out / f"{i:0{width}d}-{_slug(title)}.{kind}" for i, title in enumerate(titles)]


def _try(paths: Sequence[storage.Path]) -> None:
    """Finds out before the work whether its fruit can be kept."""
    folder = paths[0].parent
    if storage.in_bucket(folder):
        storage.check_writable(folder)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            fresh = not path.exists()
            path.open("ab").close()
            if fresh:
                path.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None


def _slug(title: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return words[:60].rstrip("-") or "music"
