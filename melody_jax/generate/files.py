"""Where the pieces of one command go: their names, what may be replaced, the page that shows them. Imports no jax."""

import dataclasses
import errno
import functools
import glob
import itertools
import pathlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.files import scratch_of
from melody_jax.generate.page import beside, write_page
from melody_jax.generate.replay import read_file
from melody_jax.generate.sound_file import SUBTYPES, SoundFormat

if TYPE_CHECKING:
    from melody_jax.generate import Melody, Result


PAGE = "index.html"


@dataclasses.dataclass(frozen=True)
class Output:
    """What is to be written, and where.

    Attributes:
      out: X.wav (X-0.wav, X-1.wav, ... for several pieces) or a folder; a picture (.png) and all that makes the piece again
        (.json) are written beside each.
      overwrite: replace files that are there.
      skip_existing: go on: leave out pieces that are there; a picture that one lacks is drawn.
      format: of the sound files: wav, flac, ogg or mp3; if not given as `out` ends, else wav.
      bits: 16, 24 or (wav) 32, which are floating-point.
      rate: 24000, 44100 or 48000 Hz; if not given the bundle's.
      keep_all: write every candidate: X-candidate-1.wav and so on.
      html: also write a page with a player for each piece, index.html.
    """

    out: str = "music"
    overwrite: bool = False
    skip_existing: bool = False
    format: str | None = None
    bits: int = 16
    rate: int | None = None
    keep_all: bool = False
    html: bool = False


class Files:
    """Where each piece goes; each is written as soon as it exists.

    Args:
      asked: what is to be written.
      titles: one for each piece.

    Attributes:
      wanted: indices of the pieces that are to be made.

    Raises:
      UserError: a name of something else, files that are there and may not be replaced, a folder that cannot be written.
    """

    def __init__(self, asked: Output, titles: Sequence[str]):
        path = storage.path(asked.out)
        ending = _ending(path)
        self.form = SoundFormat(asked.format or (ending if ending in SUBTYPES else "wav"), asked.bits, asked.rate)
        self._paths = _paths(path, titles, self.form.kind)
        self._keep_all, self._html = asked.keep_all, asked.html
        self._skip_existing, self._overwrite = asked.skip_existing, asked.overwrite
        self._new_page = not (asked.overwrite or asked.skip_existing)
        there = [i for i, path in enumerate(self._paths) if path.exists()]
        if asked.overwrite and asked.skip_existing:
            raise UserError("--overwrite and --skip_existing exclude each other")
        taken = [file for path in self._paths for file in (path, *beside(path)) if file.exists()]
        taken += [page for page in (self.folder / PAGE,) if self._html and page.exists()]
        if self._keep_all:
            taken += [file for path in self._paths for file in self._candidates(path)]
        if taken and not (asked.overwrite or asked.skip_existing):
            others = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
            raise UserError(f"{taken[0]}{others} exists; --overwrite replaces it, --skip_existing makes the others")
        self.wanted = [i for i in range(len(self._paths)) if not (asked.skip_existing and i in there)]
        for path in (self._paths[i] for i in self.wanted if asked.skip_existing):
            foreign = [file for file in beside(path) if file.exists() and not _said(path)]
            if foreign:
                raise UserError(f"{foreign[0]} exists, and is perhaps no piece's; move it away, or --overwrite")
        _try(self._paths)
        kept = [path for i, path in enumerate(self._paths) if i not in self.wanted]
        if self._keep_all:
            kept = [file for path in kept for file in (path, *self._candidates(path))]
        self._pieces = [(path, _said(path)) for path in kept]

    @property
    def folder(self) -> storage.Path:
        """Where they go."""
        return self._paths[0].parent

    def complete(self) -> None:
        """Makes what the pieces that are there lack: pictures from their sound, and the page.

        Settings, which are no more where they could not be written, are missed in a warning.
        """
        from melody_jax.generate.writer import draw

        for path, said in self._pieces:
            picture, settings = beside(path)
            if not said:
                warnings.warn(f"{path} is there without its settings, {settings.name}", stacklevel=2)
            if not picture.is_file():
                draw(path, said)
        if self._pieces:
            self._write_page()

    def write(
        self, melody: "Melody", index: int, result: "Result", file: str | None = None
    ) -> list[tuple[storage.Path, "Result"]]:
        """Writes a piece (`index` counts all of them), brings the page up to date, and returns what is there now.

        Args:
          file: where the music came from that it was made of.

        Raises:
          UserError: it cannot be written.
        """
        from melody_jax.generate.writer import write_result

        path = self._paths[index]
        others = result.others if self._keep_all else ()
        kept = [(path.with_name(_candidate(path, piece.candidate)), piece) for piece in others]
        written = []
        for place, piece in (*kept, (path, result)):  # the piece last: once it is there, all of it counts as made
            more = {} if file is None else {"call": {**piece.call, "file": file}}
            write = functools.partial(
                write_result, piece, bundle=melody.bundle, form=self.form, more=more, new=not self._overwrite
            )
            try:
                there = self._placed(place, write)
            except OSError as error:
                raise UserError(f"cannot write {place}: {error}") from None
            if there is not None:
                written.append((there, piece))
                self._pieces.append(
                    (there, {"prompt": piece.prompt, "seed": piece.seed, "similarity": piece.similarity})
                )
        self._write_page()
        return written

    def _write_page(self) -> None:
        if not self._html:
            return
        try:
            write_page(self.folder / PAGE, self._pieces, self._new_page)
            self._new_page = False
        except OSError as error:
            warnings.warn(f"{self.folder / PAGE} was not written: {error.strerror or error}", stacklevel=3)

    def _candidates(self, path: storage.Path) -> list[storage.Path]:
        """The other candidates of a piece that are there."""
        return sorted(self.folder.glob(_candidate(path, "*")))

    def _placed(self, place: storage.Path, write: Callable[[storage.Path], object]) -> storage.Path | None:
        """Where a piece lies once it is written: at `place`, or beside it if another command has written that meanwhile.

        None where it is left out then, as --skip_existing says.
        """
        for path in _names(place):
            try:
                write(path)
            except FileExistsError:
                if self._skip_existing:
                    warnings.warn(f"{place} is there by now; the piece made here is left out", stacklevel=3)
                    return None
                continue
            if path != place:
                warnings.warn(f"another command has written {place} meanwhile; this piece is {path}", stacklevel=3)
            return path


def _names(place: storage.Path) -> Iterator[storage.Path]:
    """A name, then others like it that are free."""
    yield place
    for number in itertools.count(2):
        path = place.with_stem(f"{place.stem}-{number}")
        if not any(file.exists() for file in (path, *beside(path))):
            yield path


def _candidate(path: storage.Path, number: object) -> str:
    """The name of a candidate of a piece; for "*" a pattern that matches those of all."""
    stem = glob.escape(path.stem) if number == "*" else path.stem
    return f"{stem}-candidate-{number}{path.suffix}"


def stream_form(out: str, overwrite: bool) -> SoundFormat:
    """The format of a file that is to hold a stream.

    Raises:
      UserError: a name of something else, or the file is there and may not be replaced.
    """
    path = storage.path(out)
    if _ending(path) not in SUBTYPES:
        raise UserError(f"--out {out}: give a name that ends in {_endings()}, or -")
    if path.exists() and not overwrite:
        raise UserError(f"{out} exists; --overwrite replaces it")
    return SoundFormat(_ending(path))


def _ending(path: storage.Path) -> str:
    return path.suffix.lower().lstrip(".")


def _endings() -> str:
    return ", ".join(f".{name}" for name in SUBTYPES)


def _said(path: storage.Path) -> dict[str, Any]:
    try:
        return read_file(beside(path)[1])
    except UserError:
        return {}


def _paths(out: storage.Path, titles: Sequence[str], kind: str) -> list[storage.Path]:
    """One path per piece."""
    ending = _ending(out)
    if ending == kind:
        return [out] if len(titles) == 1 else [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(len(titles))]
    if ending in SUBTYPES:
        raise UserError(f"--out {out} is a name of {ending}, but --format says {kind}")
    if out.suffix and not out.is_dir():
        raise UserError(f"--out {out}: give a name that ends in {_endings()}, or a folder")
    width = len(str(len(titles) - 1))
    return [out / f"{i:0{width}d}-{_slug(title)}.{kind}" for i, title in enumerate(titles)]


def _try(paths: Sequence[storage.Path]) -> None:
    """Checks before the work that its results can be written."""
    folder = paths[0].parent
    if storage.in_bucket(folder):
        storage.check_writable(folder)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{path.name} is a folder")
            scratch = scratch_of(pathlib.Path(path))
            scratch.open("wb").close()
            scratch.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None


def _slug(title: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return words[:60].rstrip("-") or "music"
