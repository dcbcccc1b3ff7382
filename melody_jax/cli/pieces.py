"""What the commands that make music share: their options, the files they write, the lines they print. Imports no jax."""

import argparse
import contextlib
import dataclasses
import pathlib
import re
import sys
import typing
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import tqdm

from melody_jax import storage
from melody_jax.cli import controls
from melody_jax.errors import UserError
from melody_jax.generate.page import beside, write_page
from melody_jax.generate.prompts import check_prompts, read_prompts
from melody_jax.generate.replay import read_file
from melody_jax.generate.settings import Schedule, Settings, seeds_of, with_settings
from melody_jax.generate.sound_file import RATES, SUBTYPES, SoundFormat

if TYPE_CHECKING:
    from melody_jax.generate import Melody, Result

REPOSITORY_BUNDLE = pathlib.Path(__file__).parents[2] / "bundles" / "tiny"
HELP = {
    "seconds": "length of the music (10)",
    "steps": "diffusion steps (20)",
    "guidance": "guidance of the diffusion, 1 for none (2.5)",
    "schedule": "diffusion step sizes: linear or uniform (linear)",
    "lm_guidance": "guidance of the language model, 1 for none (1)",
    "temperature": "of the language model, 0 for the most likely tokens (1)",
    "top_k": "draw from the k most likely tokens, 0 for all (0)",
    "top_p": "draw from the most likely tokens of this total probability (1)",
    "mulan_levels": "MuLan tokens that count, coarse to fine, 0 for all (0)",
    "clip_latents": "bound of predicted latents, 0 for none (1)",
    "noise": "deviation of the noise that diffusion starts from: less is plainer (1)",
    "window_seconds": "length diffused at once, 0 for the training clip (0)",
    "candidates": "pieces per prompt; the one MuLan hears nearest is kept (1)",
    "loudness": "LUFS that pieces are brought to, or none (-16)",
}


def add_sampling(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """Bundle, seed, and one option for each setting."""
    parser.add_argument("--bundle", metavar="DIR", help="exported models (default: bundles/tiny of this repository)")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="DIR[=WEIGHT]",
        help="add what melody finetune --lora left in DIR, this strongly (1); may be given several times",
    )
    parser.add_argument("--negative", metavar="TEXT", help="what the music should not be (with --lm_guidance above 1)")
    controls.add_arguments(parser)
    group = parser.add_argument_group("sampling (defaults: the bundle's, else as given)")
    for field in dataclasses.fields(Settings):
        if field.name in without:
            continue
        kind: Any = field.type if field.type in (int, float) else str
        options: dict[str, Any] = {"type": _loudness, "metavar": "LUFS"} if field.name == "loudness" else {"type": kind}
        if field.name == "schedule":
            options["metavar"] = "|".join(typing.get_args(Schedule))
        # of its own, so that "none" is a choice and no option is none
        group.add_argument(f"--{field.name}", default=argparse.SUPPRESS, help=HELP[field.name], **options)


def add_output(parser: argparse.ArgumentParser, several: bool = True) -> None:
    """What is written, and where."""
    group = parser.add_argument_group("files")
    group.add_argument(
        "--out",
        default="music",
        metavar="PATH",
        help="X.wav (X-0.wav, X-1.wav, ... for several pieces) or a folder (default: music); a picture (.png) and all "
        "that makes the piece again (.json) are written beside each",
    )
    group.add_argument("--overwrite", action="store_true", help="replace files that are there")
    group.add_argument("--skip_existing", action="store_true", help="go on: leave out pieces that are there")
    group.add_argument("--format", choices=tuple(SUBTYPES), help="of the sound files (default: as X ends, else wav)")
    group.add_argument("--bits", type=int, default=16, help="16, 24 or (wav) 32, which are floating-point (16)")
    group.add_argument("--rate", type=int, metavar="HZ", help=f"{', '.join(map(str, RATES))} (the bundle's)")
    group.add_argument("--keep_all", action="store_true", help="write every candidate, X-candidate-1.wav, ...")
    group.add_argument("--html", action="store_true", help="also a page with a player for each piece, index.html")
    if several:
        parser.add_argument("--seed", type=_seeds, default=[0], metavar="N[,N...]", help="one, or one a piece (0)")
        parser.add_argument("--batch_size", type=int, default=16, help="pieces worked on at once (default 16)")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, checked.

    Raises:
      UserError: a bad value.
    """
    names = [field.name for field in dataclasses.fields(Settings)]
    chosen = {name: getattr(args, name) for name in names if hasattr(args, name)}
    with_settings(Settings(), chosen)
    if args.negative is not None:
        check_prompts([args.negative])
    return chosen


def run_of(args: argparse.Namespace, pieces: int) -> dict[str, Any]:
    """Seed, batch size and what else every call takes.

    Raises:
      UserError: a bad value.
    """
    seed = args.seed[0] if len(args.seed) == 1 else args.seed
    seeds_of(seed, pieces)
    if args.batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, got {args.batch_size}")
    asked = controls.from_arguments(args)
    return {
        "seed": seeds_of(seed, pieces),
        "batch_size": args.batch_size,
        "negative": args.negative,
        "controls": asked if asked else None,
    }


def prompts_of(args: argparse.Namespace, example: str) -> list[str]:
    """The sentences on the command line or in a file.

    Raises:
      UserError: there is none, or it is empty; the file cannot be read.
    """
    if args.file is not None:
        return read_prompts(args.file)
    if not args.prompts:
        raise UserError(f"there is no prompt; try: {example}")
    return check_prompts(args.prompts)


def bundle_of(directory: str | None) -> storage.Path:
    """The bundle's folder.

    Raises:
      UserError: none was named, and there is none in the repository.
    """
    if directory is not None:
        return storage.path(directory)
    if not REPOSITORY_BUNDLE.is_dir():
        raise UserError(f"there is no bundle at {REPOSITORY_BUNDLE}; name one with --bundle DIR")
    return REPOSITORY_BUNDLE


def adapters_of(items: Sequence[str]) -> dict[str, float]:
    """Folder -> weight of every DIR or DIR=WEIGHT.

    Raises:
      UserError: a weight that is no number.
    """
    weights = {}
    for item in items:
        directory, separator, weight = item.rpartition("=")
        try:
            weights[directory if separator else item] = float(weight) if separator else 1.0
        except ValueError:
            raise UserError(f"--adapter {item}: the weight must be a number") from None
    return weights


class Files:
    """Where each piece goes; each is written, and said, as soon as it exists.

    Args:
      args: see `add_output`.
      titles: one for each piece.

    Attributes:
      wanted: indices of the pieces that are to be made.

    Raises:
      UserError: a name of something else, files that are there and may not be replaced, a folder that cannot be written.
    """

    def __init__(self, args: argparse.Namespace, titles: Sequence[str]):
        out = storage.path(args.out)
        ending = out.suffix.lower().lstrip(".")
        self.form = SoundFormat(args.format or (ending if ending in SUBTYPES else "wav"), args.bits, args.rate)
        self._paths = _paths(out, titles, self.form.kind)
        self._keep_all, self._html = args.keep_all, args.html
        self._pieces: list[tuple[storage.Path, dict[str, Any]]] = []
        there = [i for i, path in enumerate(self._paths) if path.exists()]
        if args.overwrite and args.skip_existing:
            raise UserError("--overwrite and --skip_existing exclude each other")
        if there and not (args.overwrite or args.skip_existing):
            others = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise UserError(
                f"{self._paths[there[0]]}{others} exists; --overwrite replaces it, --skip_existing makes the others"
            )
        self.wanted = [i for i in range(len(self._paths)) if not (args.skip_existing and i in there)]
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


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings are one line on stderr."""

    def show(message: Any, *_: Any, **__: Any) -> None:
        tqdm.tqdm.write(f"warning: {' '.join(str(message).split())}", sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def _seeds(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _loudness(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


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
