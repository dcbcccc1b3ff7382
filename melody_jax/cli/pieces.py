"""What the commands that make music share: their options, the call, the lines they print. Imports no jax."""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import tqdm

from melody_jax import storage
from melody_jax.cli import arguments, controls
from melody_jax.generate.files import Files, Output
from melody_jax.generate.making import Making
from melody_jax.generate.prompts import check_prompts
from melody_jax.generate.settings import Settings, seeds_of, with_settings
from melody_jax.generate.sound_file import check_music
from melody_jax.operations.quiet import plain_warnings


def add_sampling(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """Bundle, seed, and one option for each setting."""
    adapter = "add what melody finetune --lora left in DIR, this strongly (1); may be given several times"
    arguments.add(parser, "bundle", adapter=adapter)
    parser.add_argument("--negative", metavar="TEXT", help="what the music should not be (with --lm_guidance above 1)")
    controls.add_arguments(parser)
    add_settings(parser, without)


def add_settings(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """One option for each setting, for `settings_of`."""
    group = parser.add_argument_group("sampling (defaults: the bundle's, else as given)")
    names = [field.name for field in dataclasses.fields(Settings) if field.name not in without]
    arguments.add_fields(group, Settings, names, default=argparse.SUPPRESS)  # what is not given is the bundle's


def add_output(parser: argparse.ArgumentParser) -> None:
    """What is written, and where; seeds and batches of several pieces."""
    arguments.add_fields(parser.add_argument_group("files"), Output)
    parser.add_argument("--seed", type=_seeds, default=[0], metavar="N[,N...]", help="one, or one a piece (default 0)")
    parser.add_argument(
        "--batch_size", action=arguments.Positive, default=16, help="pieces worked on at once (default 16)"
    )


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, checked.

    Raises:
      UserError: a bad value.
    """
    chosen = arguments.fields_of(args, Settings)
    with_settings(Settings(), chosen)
    if getattr(args, "negative", None) is not None:
        check_prompts([args.negative])
    return chosen


def making_of(args: argparse.Namespace, titles: Sequence[str]) -> Making:
    """The bundle that is asked for, and where the pieces go.

    Raises:
      UserError: a bad argument.
    """
    files = Files(Output(**arguments.fields_of(args, Output)), titles)
    return Making(arguments.bundle_of(args.bundle), arguments.adapters_of(args.adapter), files, _show, keep_programs)


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
    asked = controls.from_arguments(args) or None
    for path in sources if music else ():
        check_music(path)
    making = making_of(args, titles)
    if not making.files.wanted:
        print(f"all {len(sources)} pieces are there")
        return
    given |= {"negative": args.negative, "controls": asked, "batch_size": args.batch_size, "keep_all": args.keep_all}
    with plain_warnings():
        making.make(method, sources, music, seeds, **given, **chosen)


def add_music(parser: argparse.ArgumentParser, without: Sequence[str]) -> None:
    """What continue, inpaint and vary share: music, a prompt, and what every command has, `without` some settings."""
    parser.add_argument("music", nargs="+", metavar="FILE", help="sound files (wav, flac, mp3, m4a, ...)")
    parser.add_argument("--prompt", metavar="TEXT", help="what the new music should be (default: like the given)")
    add_output(parser)
    add_sampling(parser, without)


def edit(args: argparse.Namespace, method: str, **given: Any) -> None:
    """Calls a method of `Melody` with the music, and writes what it gives.

    Raises:
      UserError: a bad argument.
    """
    prompt = None if args.prompt is None else check_prompts([args.prompt])[0]
    titles = [f"{pathlib.Path(path).stem} {method.strip('_')}" for path in args.music]
    make(args, method, args.music, titles, True, prompt=prompt, **given)


def loaded(bundle: storage.Path, adapters: Sequence[str] = ()) -> Any:
    """A bundle as `Melody`, with adapters as `--adapter` gives them; its programs are kept for the next command."""
    from melody_jax.generate import Melody

    return Melody.load(bundle, adapters=arguments.adapters_of(adapters), programs=keep_programs())


def keep_programs() -> Any:
    """Compiled programs are kept for the next command; returns where `Melody` keeps its own."""
    from melody_jax.operations import cache

    return cache.keep_programs()


def _show(place: Any, piece: Any) -> None:
    """Prints a line for a piece, above the bar, also what the terminal's encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    score = "" if piece.similarity is None else f"  {piece.similarity:.3f}"
    line = f"{place}{score}  {piece.prompt}".rstrip()
    tqdm.tqdm.write(line.encode(encoding, "replace").decode(encoding), sys.stdout)


def _seeds(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"seeds are whole numbers with commas between them, not {text!r:.40}"
        ) from None
