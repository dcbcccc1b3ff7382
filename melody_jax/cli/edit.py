"""What `melody continue`, `melody inpaint` and `melody vary` share: music goes in, music that was changed comes out."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from melody_jax.cli import pieces
from melody_jax.generate.prompts import check_prompts
from melody_jax.generate.sound_file import check_music, read_music


def add_arguments(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """Music, a prompt, and what every command has."""
    parser.add_argument("music", nargs="+", metavar="FILE", help="sound files (wav, flac, ogg, mp3)")
    parser.add_argument("--prompt", metavar="TEXT", help="what the new music should be (default: like the given)")
    pieces.add_output(parser)
    pieces.add_sampling(parser, without)


def edit(args: argparse.Namespace, method: str, **arguments: Any) -> None:
    """Calls a method of `Melody` with the music, and writes what it gives.

    Raises:
      UserError: a bad argument.
    """
    chosen = pieces.settings_of(args)
    prompt = None if args.prompt is None else check_prompts([args.prompt])[0]
    run = pieces.run_of(args, len(args.music))
    for path in args.music:
        check_music(path)
    files = pieces.Files(args, [f"{pathlib.Path(path).stem} {method.strip('_')}" for path in args.music])
    bundle = pieces.bundle_of(args.bundle)
    wanted = files.wanted
    if not wanted:
        print(f"all {len(args.music)} pieces are there")
        return

    from melody_jax.generate import Melody

    melody = Melody.load(bundle, adapters=pieces.adapters_of(args.adapter))
    music = [read_music(args.music[index], melody.sample_rate) for index in wanted]
    run["seed"] = [run["seed"][index] for index in wanted]

    def each(index: int, result: Any) -> None:
        files.write(melody, wanted[index], result, str(pathlib.Path(args.music[wanted[index]]).resolve()))

    with pieces.plain_warnings():
        getattr(melody, method)(
            music, prompt=prompt, **arguments, **run, **chosen, progress=True, each=each, keep_all=args.keep_all
        )
