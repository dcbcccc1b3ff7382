"""`melody stream`, `melody play`: music without an end, into a file, a pipe or the loudspeaker."""

import argparse
import functools
import math
import sys
from collections.abc import Callable

from melody_jax.cli import music
from melody_jax.cli.arguments import bundle_of, command, option
from melody_jax.errors import UserError
from melody_jax.generate.files import stream_form
from melody_jax.generate.prompts import check_prompts
from melody_jax.generate.settings import seeds_of
from melody_jax.generate.sinks import Sink, loudspeaker, pipe, play_to
from melody_jax.generate.sound_file import stream_to
from melody_jax.operations.quiet import plain_warnings

ENDLESS = (
    option("prompt", "a sentence; on a terminal, type another one at any time", metavar="PROMPT"),
    option("--seed", "the same seed gives the same music (default 0)", type=int, default=0),
    option("--seconds", "length (default: without an end)", dest="length", type=float, default=math.inf),
    *music.sampling("seconds", "candidates"),
)


@command(
    *ENDLESS,
    option("--out", "X.wav, .flac, .ogg, .mp3, or - for raw 16-bit samples (default -)", default="-", metavar="PATH"),
    option("--overwrite", "replace a file that is there", action="store_true"),
    epilog="Ends after --seconds or with Ctrl-C; what was made until then is in the file.",
)
def stream(args: argparse.Namespace) -> None:
    if args.out == "-":
        if sys.stdout.isatty():
            raise UserError("raw samples are nothing for a terminal; give --out X.wav, or a pipe")
        sink = functools.partial(pipe, sys.stdout.buffer)
    else:
        tags = {"title": args.prompt[:200], "comment": f"seed {args.seed}"}
        sink = functools.partial(stream_to, args.out, stream_form(args.out, args.overwrite), tags, args.overwrite)
    try:
        _play(args, sink)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the pipe has gone, which is no error
    except OSError as error:
        raise UserError(f"cannot write {args.out}: {error}") from None


@command(*ENDLESS, epilog="Needs the extra `play` and a loudspeaker.")
def play(args: argparse.Namespace) -> None:
    _play(args, loudspeaker())


def _play(args: argparse.Namespace, sink: Callable[[int], Sink]) -> None:
    """Plays into what `sink` opens for a sample rate."""
    if not args.length > 0:
        raise UserError(f"--seconds must be more than 0, got {args.length:g}")
    chosen, asked = music.settings_of(args), music.controls_of(args)
    check_prompts([args.prompt])
    seeds_of(args.seed, 1)
    melody = music.loaded(bundle_of(args.bundle), args.adapter)
    with plain_warnings():
        made = melody.stream(args.prompt, negative=args.negative, seed=args.seed, controls=asked, **chosen)
        play_to(sink(melody.sample_rate), made, args.length, sys.stdin if sys.stdin.isatty() else ())
