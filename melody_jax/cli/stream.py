"""`melody stream`: music without an end, into a file or a pipe."""

import argparse
import functools
import math
import sys
from collections.abc import Callable

from melody_jax.cli import arguments, controls, pieces
from melody_jax.errors import UserError
from melody_jax.generate.files import stream_form
from melody_jax.generate.prompts import check_prompts
from melody_jax.generate.settings import seeds_of
from melody_jax.generate.sinks import Sink, pipe, play_to
from melody_jax.generate.sound_file import stream_to
from melody_jax.operations.quiet import plain_warnings

EPILOG = "Ends after --seconds or with Ctrl-C; what was made until then is in the file."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_music(parser)
    text = "X.wav, .flac, .ogg, .mp3, or - for raw 16-bit samples (default -)"
    parser.add_argument("--out", default="-", metavar="PATH", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")


def add_music(parser: argparse.ArgumentParser) -> None:
    """What `melody play` has too."""
    parser.add_argument("prompt", metavar="PROMPT", help="a sentence; on a terminal, type another one at any time")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same music (default 0)")
    text = "length (default: without an end)"
    parser.add_argument("--seconds", dest="length", type=float, default=math.inf, help=text)
    pieces.add_sampling(parser, ("seconds", "candidates"))


def run(args: argparse.Namespace) -> None:
    if args.out == "-":
        if sys.stdout.isatty():
            raise UserError("raw samples are nothing for a terminal; give --out X.wav, or a pipe")
        sink = functools.partial(pipe, sys.stdout.buffer)
    else:
        tags = {"title": args.prompt[:200], "comment": f"seed {args.seed}"}
        sink = functools.partial(stream_to, args.out, stream_form(args.out, args.overwrite), tags)
    try:
        play(args, sink)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the pipe has gone, which is no error
    except OSError as error:
        raise UserError(f"cannot write {args.out}: {error}") from None


def play(args: argparse.Namespace, sink: Callable[[int], Sink]) -> None:
    """Plays into what `sink` opens for a sample rate."""
    if not args.length > 0:
        raise UserError(f"--seconds must be more than 0, got {args.length:g}")
    chosen, asked = pieces.settings_of(args), controls.from_arguments(args)
    check_prompts([args.prompt])
    seeds_of(args.seed, 1)
    melody = pieces.loaded(arguments.bundle_of(args.bundle), args.adapter)
    with plain_warnings():
        stream = melody.stream(args.prompt, negative=args.negative, seed=args.seed, controls=asked, **chosen)
        play_to(sink(melody.sample_rate), stream, args.length, sys.stdin if sys.stdin.isatty() else ())
