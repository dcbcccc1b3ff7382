"""What `melody continue`, `melody inpaint` and `melody vary` share: music goes in, music that was changed comes out."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from melody_jax.cli import pieces
from melody_jax.generate.prompts import check_prompts


def add_music(parser: argparse.ArgumentParser, without: Sequence[str]) -> None:
    """Music, a prompt, and what every command has, `without` some settings."""
    parser.add_argument("music", nargs="+", metavar="FILE", help="sound files (wav, flac, ogg, mp3)")
    parser.add_argument("--prompt", metavar="TEXT", help="what the new music should be (default: like the given)")
    pieces.add_output(parser)
    pieces.add_sampling(parser, without)


def edit(args: argparse.Namespace, method: str, **given: Any) -> None:
    """Calls a method of `Melody` with the music, and writes what it gives.

    Raises:
      UserError: a bad argument.
    """
    prompt = None if args.prompt is None else check_prompts([args.prompt])[0]
    titles = [f"{pathlib.Path(path).stem} {method.strip('_')}" for path in args.music]
    pieces.make(args, method, args.music, titles, True, prompt=prompt, **given)
