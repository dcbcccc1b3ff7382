"""`melody generate`: sentences to music."""

import argparse
import pathlib
from typing import Any

from melody_jax.cli import pieces
from melody_jax.errors import UserError
from melody_jax.generate.replay import read_call, read_file
from melody_jax.generate.sound_file import check_music, read_music

EXAMPLE = 'melody generate "a slow waltz for solo violin" --out x.wav'


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("generate")
    parser.set_defaults(run=run)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="sentences, one piece of music each")
    parser.add_argument("--prompts", dest="file", metavar="FILE", help="a text file with one prompt a line")
    parser.add_argument("--music", nargs="+", metavar="FILE", help="instead of sentences: sound files to resemble")
    parser.add_argument("--from", dest="again", metavar="X.json", help="make that piece again, settings and all")
    pieces.add_output(parser)
    pieces.add_sampling(parser)


def run(args: argparse.Namespace) -> None:
    """Makes the music and says where it is.

    Raises:
      UserError: a bad argument; found before the models are loaded wherever possible.
    """
    if args.again is not None:
        return _again(args)
    chosen = pieces.settings_of(args)
    if sum([bool(args.prompts), args.file is not None, bool(args.music)]) > 1:
        raise UserError("give prompts, or --prompts FILE, or --music FILE, not several of them")
    sources = args.music or pieces.prompts_of(args, EXAMPLE)
    for path in args.music or ():
        check_music(path)
    run = pieces.run_of(args, len(sources))
    files = pieces.Files(args, [pathlib.Path(path).stem for path in sources] if args.music else sources)
    bundle = pieces.bundle_of(args.bundle)
    wanted = files.wanted
    if not wanted:
        print(f"all {len(sources)} pieces are there")
        return

    from melody_jax.generate import Melody

    melody = Melody.load(bundle, adapters=pieces.adapters_of(args.adapter))
    run["seed"] = [run["seed"][i] for i in wanted]
    source: dict[str, Any] = {"prompts": [sources[i] for i in wanted]}
    if args.music:
        source = {"audio": [read_music(sources[i], melody.sample_rate) for i in wanted]}

    def each(index: int, result: Any) -> None:
        place = wanted[index]
        files.write(melody, place, result, str(pathlib.Path(sources[place]).resolve()) if args.music else None)

    with pieces.plain_warnings():
        melody.generate(**source, **run, **chosen, progress=True, each=each, keep_all=args.keep_all)


def _again(args: argparse.Namespace) -> None:
    """The piece that a JSON file tells of."""
    if args.prompts or args.file or pieces.settings_of(args) or args.negative or args.seed != [0]:
        raise UserError("--from takes prompt, seed and settings from the file: give none of them")
    call = read_call(info := read_file(args.again))
    files = pieces.Files(args, [call.arguments.get("prompts") or call.arguments.get("prompt") or call.name])
    sound = args.music[0] if args.music else call.file
    if call.sha256 is not None and sound is None:
        raise UserError(f"{args.again} was made from music; name that file with --music")
    if call.sha256 is not None and sound is not None:
        check_music(sound)
    bundle = pieces.bundle_of(args.bundle)
    if not files.wanted:
        print("the piece is there")
        return

    from melody_jax.generate import Melody

    melody = Melody.load(bundle, adapters=pieces.adapters_of(args.adapter))
    audio = read_music(sound, melody.sample_rate) if call.sha256 is not None and sound is not None else None
    with pieces.plain_warnings():
        files.write(melody, 0, melody.replay(info, audio, progress=True), sound if call.sha256 is not None else None)
