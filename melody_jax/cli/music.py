"""`melody generate`, `continue`, `inpaint`, `vary`: files of music from sentences and from music. Imports no jax."""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import tqdm

from melody_jax import storage
from melody_jax.cli.arguments import (
    Option,
    Positive,
    adapters_of,
    bundle_of,
    command,
    fields,
    fields_of,
    group,
    option,
    several,
    shared,
)
from melody_jax.codes.control_words import parse
from melody_jax.errors import UserError
from melody_jax.generate.files import Files, Output
from melody_jax.generate.making import Making, music_of
from melody_jax.generate.prompts import check_prompts, read_prompts
from melody_jax.generate.replay import read_call, read_file
from melody_jax.generate.settings import BATCH_SIZE, Settings, seeds_of, with_settings
from melody_jax.generate.sound_file import check_music
from melody_jax.operations.quiet import plain_warnings

EXAMPLE = 'melody generate "a slow waltz for solo violin" --out x.wav'

CONTROLS = group(
    "controls (for models trained with them; else taken from the sentence)",
    option("--bpm", "beats per minute, 40 to 208", metavar="BPM"),
    option("--key", 'tonic and mode: "D minor", "F# major", "Bb m"', metavar="KEY"),
    option("--metre", "3/4, 4/4, 6/8, ... or a dance that has one: waltz", metavar="METRE"),
    option("--downbeat", "of given music: from its start to the first beat of a bar", metavar="SECONDS"),
    option("--instruments", "all who play, the leading one first: violin,cello", metavar="NAMES"),
    option("--drums", "with or without a drum kit", action=argparse.BooleanOptionalAction),
)


def settings(*without: str) -> Option:
    """One option for each setting but some, for `settings_of`."""
    names = [field.name for field in dataclasses.fields(Settings) if field.name not in without]
    title = "sampling (defaults: the bundle's, else as given)"
    return group(title, fields(Settings, names, default=argparse.SUPPRESS))  # what is not given is the bundle's


def sampling(*without: str) -> tuple[Option, ...]:
    """Bundle, controls, and the settings but some."""
    adapter = "add what melody finetune --lora left in DIR, this strongly (1); may be given several times"
    return (
        shared("bundle", adapter=adapter),
        option("--negative", "what the music should not be (with --lm_guidance above 1)", metavar="TEXT"),
        CONTROLS,
        settings(*without),
    )


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, checked.

    Raises:
      UserError: a bad value.
    """
    chosen = fields_of(args, Settings)
    with_settings(Settings(), chosen)
    if getattr(args, "negative", None) is not None:
        check_prompts([args.negative])
    return chosen


def controls_of(args: argparse.Namespace) -> Any:
    """What the flags of `CONTROLS` ask for, as `codes.controls.Controls`.

    Raises:
      UserError: a value that cannot be; the message names it and says what can be.
    """
    return parse(args.bpm, args.key, args.metre, args.instruments, args.drums, args.downbeat)


def loaded(bundle: storage.Path, adapters: Sequence[str] = ()) -> Any:
    """A bundle as `Melody`, with adapters as `--adapter` gives them; its programs are kept for the next command."""
    from melody_jax.generate import Melody

    return Melody.load(bundle, adapters=adapters_of(adapters), programs=_keep_programs())


def _seeds(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"seeds are whole numbers with commas between them, not {text!r:.40}"
        ) from None


FILES = (
    group("files", fields(Output)),
    option("--seed", "one, or one a piece (default 0)", type=_seeds, default=[0], metavar="N[,N...]"),
    option("--batch_size", f"pieces worked on at once (default {BATCH_SIZE})", action=Positive, default=BATCH_SIZE),
)
MUSIC = (
    option("music", "sound files (wav, flac, mp3, m4a, ...)", nargs="+", metavar="FILE"),
    option("--prompt", "what the new music should be (default: like the given)", metavar="TEXT"),
    *FILES,
)


@command(
    option("prompts", "sentences, one piece of music each", nargs="*", metavar="PROMPT"),
    option("--prompts", "a text file with one prompt a line", dest="file", metavar="FILE"),
    option("--music", "instead of sentences: sound files to resemble", nargs="+", metavar="FILE"),
    option("--from", "make that piece again, settings and all", dest="again", metavar="X.json"),
    *FILES,
    *sampling(),
)
def generate(args: argparse.Namespace) -> None:
    if args.again is not None:
        return _again(args)
    if sum([bool(args.prompts), args.file is not None, bool(args.music)]) > 1:
        raise UserError("give prompts, or --prompts FILE, or --music FILE, not several of them")
    if args.music:
        return _make(args, "generate", args.music, [pathlib.Path(path).stem for path in args.music], True)
    if not args.prompts and args.file is None:
        raise UserError(f"there is no prompt; try: {EXAMPLE}")
    prompts = check_prompts(args.prompts) if args.file is None else read_prompts(args.file)
    return _make(args, "generate", prompts, prompts, False)


@command(*MUSIC, *sampling("loudness"), epilog="--seconds is how much is added; what was there stays as it was.")
def continue_(args: argparse.Namespace) -> None:
    _edit(args, "continue_")


@command(
    *MUSIC,
    *sampling("seconds", "loudness"),
    several("--span", "A:B", "seconds, as in 2.5:4; several times"),
    epilog="What lies outside the spans stays as it was.",
)
def inpaint(args: argparse.Namespace) -> None:
    if not args.span:
        raise UserError("there is no span; try --span 2.5:4")
    _edit(args, "inpaint", spans=[_span(text) for text in args.span])


@command(
    *MUSIC,
    *sampling("seconds"),
    option("--strength", "0: as it was, to 1: a new piece (0.5)", type=float, default=0.5),
)
def vary(args: argparse.Namespace) -> None:
    if not 0 <= args.strength <= 1:
        raise UserError(f"--strength must be from 0 to 1, got {args.strength:g}")
    _edit(args, "vary", strength=args.strength)


def _span(text: str) -> tuple[float, float]:
    begin, _, end = text.partition(":")
    try:
        return float(begin), float(end)
    except ValueError:
        raise UserError(f"--span {text}: write begin and end in seconds, as in 2.5:4") from None


def _edit(args: argparse.Namespace, method: str, **given: Any) -> None:
    """Calls a method of `Melody` with the music, and writes what it gives."""
    prompt = None if args.prompt is None else check_prompts([args.prompt])[0]
    titles = [f"{pathlib.Path(path).stem} {method.strip('_')}" for path in args.music]
    _make(args, method, args.music, titles, True, prompt=prompt, **given)


def _make(
    args: argparse.Namespace, method: str, sources: Sequence[str], titles: Sequence[str], music: bool, **given: Any
) -> None:
    """Calls a method of `Melody`, and writes each piece as soon as it exists; checks what it can before models are loaded.

    Args:
      sources: one for each piece: a file of music, if that is what the method takes, else a sentence.
      given: further arguments of the method.
    """
    chosen = settings_of(args)
    seeds = seeds_of(args.seed[0] if len(args.seed) == 1 else args.seed, len(sources))
    asked = controls_of(args) or None
    for path in sources if music else ():
        check_music(path)
    making = _making(args, titles)
    given |= {"negative": args.negative, "controls": asked, "batch_size": args.batch_size, "keep_all": args.keep_all}
    with plain_warnings():
        making.files.complete()
        if not making.files.wanted:
            print(f"all {len(sources)} pieces are there")
            return
        making.make(method, sources, music, seeds, **given, **chosen)


def _again(args: argparse.Namespace) -> None:
    """Makes the piece that a JSON file describes."""
    if args.prompts or args.file or settings_of(args) or args.negative or args.seed != [0]:
        raise UserError("--from takes prompt, seed and settings from the file: give none of them")
    call = read_call(info := read_file(args.again))
    title = call.arguments.get("prompts") or call.arguments.get("prompt") or call.name
    sound = music_of(call, args.music[0] if args.music else None, args.again)
    making = _making(args, [title])
    with plain_warnings():
        making.files.complete()
        if not making.files.wanted:
            print("the piece is there")
            return
        making.make_again(info, sound)


def _making(args: argparse.Namespace, titles: Sequence[str]) -> Making:
    """The bundle that is asked for, and where the pieces go."""
    files = Files(Output(**fields_of(args, Output)), titles)
    return Making(bundle_of(args.bundle), adapters_of(args.adapter), files, _show, _keep_programs)


def _keep_programs() -> storage.Path | None:
    from melody_jax.operations import cache  # which imports jax

    return cache.keep_programs()


def _show(place: Any, piece: Any) -> None:
    """Prints a line for a piece, above the bar, also what the terminal's encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    score = "" if piece.similarity is None else f"  {piece.similarity:.3f}"
    line = f"{place}{score}  {piece.prompt}".rstrip()
    tqdm.tqdm.write(line.encode(encoding, "replace").decode(encoding), sys.stdout)
