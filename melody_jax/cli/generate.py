"""`melody generate`: sentences to music."""

import argparse
import pathlib

from melody_jax.cli import pieces
from melody_jax.errors import UserError
from melody_jax.generate.making import music_of
from melody_jax.generate.prompts import check_prompts, read_prompts
from melody_jax.generate.replay import read_call, read_file
from melody_jax.operations.quiet import plain_warnings

EXAMPLE = 'melody generate "a slow waltz for solo violin" --out x.wav'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="sentences, one piece of music each")
    parser.add_argument("--prompts", dest="file", metavar="FILE", help="a text file with one prompt a line")
    parser.add_argument("--music", nargs="+", metavar="FILE", help="instead of sentences: sound files to resemble")
    parser.add_argument("--from", dest="again", metavar="X.json", help="make that piece again, settings and all")
    pieces.add_output(parser)
    pieces.add_sampling(parser)


def run(args: argparse.Namespace) -> None:
    if args.again is not None:
        return _again(args)
    if sum([bool(args.prompts), args.file is not None, bool(args.music)]) > 1:
        raise UserError("give prompts, or --prompts FILE, or --music FILE, not several of them")
    if args.music:
        return pieces.make(args, "generate", args.music, [pathlib.Path(path).stem for path in args.music], True)
    if not args.prompts and args.file is None:
        raise UserError(f"there is no prompt; try: {EXAMPLE}")
    prompts = check_prompts(args.prompts) if args.file is None else read_prompts(args.file)
    return pieces.make(args, "generate", prompts, prompts, False)


def _again(args: argparse.Namespace) -> None:
    """Makes the piece that a JSON file describes."""
    if args.prompts or args.file or pieces.settings_of(args) or args.negative or args.seed != [0]:
        raise UserError("--from takes prompt, seed and settings from the file: give none of them")
    call = read_call(info := read_file(args.again))
    title = call.arguments.get("prompts") or call.arguments.get("prompt") or call.name
    sound = music_of(call, args.music[0] if args.music else None, args.again)
    making = pieces.making_of(args, [title])
    if not making.files.wanted:
        print("the piece is there")
        return
    with plain_warnings():
        making.make_again(info, sound)
