"""What the commands that make music share: their options, the call, the lines they print. Imports no jax."""

import argparse
import contextlib
import dataclasses
import pathlib
import sys
import typing
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import tqdm

from melody_jax import storage
from melody_jax.cli import arguments, controls
from melody_jax.generate.files import Files
from melody_jax.generate.prompts import check_prompts
from melody_jax.generate.settings import Schedule, Settings, seeds_of, with_settings
from melody_jax.generate.sound_file import RATES, SUBTYPES, check_music, read_music

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
    arguments.add_bundle(parser)
    arguments.add_adapter(
        parser, "add what melody finetune --lora left in DIR, this strongly (1); may be given several times"
    )
    parser.add_argument("--negative", metavar="TEXT", help="what the music should not be (with --lm_guidance above 1)")
    controls.add_arguments(parser)
    add_settings(parser, without)


def add_settings(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """One option for each setting, for `settings_of`."""
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


def add_output(parser: argparse.ArgumentParser) -> None:
    """What is written, and where; seeds and batches of several pieces."""
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
    if getattr(args, "negative", None) is not None:
        check_prompts([args.negative])
    return chosen


def files_of(args: argparse.Namespace, titles: Sequence[str]) -> Files:
    """Where the pieces go; see `Files`."""
    names = ("overwrite", "skip_existing", "keep_all", "html")
    return Files(args.out, titles, args.format, args.bits, args.rate, **{name: getattr(args, name) for name in names})


def make(
    args: argparse.Namespace, method: str, sources: Sequence[str], titles: Sequence[str], music: bool, **given: Any
) -> None:
    """Calls a method of `Melody`, and writes each piece as soon as it exists; checks what it can before models are loaded.

    Args:
      sources: one for each piece: a file of music, if that is what the method takes, else a sentence.
      given: further arguments of the method.

    Raises:
      UserError: a bad argument.
    """
    chosen = settings_of(args)
    seeds = seeds_of(args.seed[0] if len(args.seed) == 1 else args.seed, len(sources))
    arguments.check_positive(args, "batch_size")
    asked = controls.from_arguments(args) or None
    for path in sources if music else ():
        check_music(path)
    files = files_of(args, titles)
    bundle, wanted = arguments.bundle_of(args.bundle), files.wanted
    if not wanted:
        print(f"all {len(sources)} pieces are there")
        return

    melody = loaded(bundle, args.adapter)
    chosen |= {"negative": args.negative, "controls": asked, "batch_size": args.batch_size, "keep_all": args.keep_all}
    some = [sources[i] for i in wanted]
    given["audio" if music else "prompts"] = [read_music(file, melody.sample_rate) for file in some] if music else some

    def each(index: int, result: Any) -> None:
        write(files, melody, wanted[index], result, str(pathlib.Path(some[index]).resolve()) if music else None)

    with plain_warnings():
        getattr(melody, method)(**given, **chosen, seed=[seeds[i] for i in wanted], progress=True, each=each)


def loaded(bundle: storage.Path, adapters: Sequence[str] = ()) -> Any:
    """A bundle as `Melody`, with adapters as `--adapter` gives them; its programs are kept for the next command."""
    from melody_jax.generate import Melody
    from melody_jax.operations.cache import keep_programs

    keep_programs()
    return Melody.load(bundle, adapters=arguments.adapters_of(adapters))


def write(files: Files, melody: Any, index: int, result: Any, file: str | None = None) -> None:
    """Writes a piece and prints a line, above the bar, also what the terminal's encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    for place, piece in files.write(melody, index, result, file):
        score = "" if piece.similarity is None else f"  {piece.similarity:.3f}"
        line = f"{place}{score}  {piece.prompt}".rstrip()
        tqdm.tqdm.write(line.encode(encoding, "replace").decode(encoding), sys.stdout)


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
