"""`melody stream` and `melody play`: music without an end, into a file or to the loudspeaker."""

import argparse
import math
import pathlib
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

from melody_jax import __version__
from melody_jax.cli import controls, pieces
from melody_jax.errors import UserError
from melody_jax.generate.prompts import check_prompts
from melody_jax.generate.settings import seeds_of
from melody_jax.generate.sound_file import SUBTYPES, SoundFormat, open_sound, samples_of


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "stream",
        epilog="Ends after --seconds or with Ctrl-C; what was made until then is in the file.",
    )
    parser.set_defaults(run=run)
    add_arguments(parser)
    parser.add_argument(
        "--out", default="-", metavar="PATH", help="X.wav, .flac, .ogg, .mp3, or - for raw 16-bit samples (default -)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What both commands have."""
    parser.add_argument("prompt", metavar="PROMPT", help="a sentence; on a terminal, type another one at any time")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same music (default 0)")
    parser.add_argument(
        "--seconds", dest="length", type=float, default=math.inf, help="length (default: without an end)"
    )
    pieces.add_sampling(parser, ("seconds", "candidates"))


def run(args: argparse.Namespace) -> None:
    """Writes until it is enough.

    Raises:
      UserError: a bad argument, or a file that cannot be written.
    """
    checked(args)
    out = pathlib.Path(args.out)
    kind = out.suffix.lower().lstrip(".")
    if args.out != "-" and kind not in SUBTYPES:
        raise UserError(f"--out {out}: give a name that ends in {', '.join('.' + name for name in SUBTYPES)}, or -")
    if args.out != "-" and out.exists() and not args.overwrite:
        raise UserError(f"{out} exists; --overwrite replaces it")
    if args.out == "-" and sys.stdout.isatty():
        raise UserError("raw samples are nothing for a terminal; give --out X.wav, or a pipe")
    form = SoundFormat(kind if args.out != "-" else "wav")
    try:
        if args.out == "-":
            play(args, lambda rate: (lambda chunk: _raw(samples_of(chunk, rate, form)), sys.stdout.flush))
        else:
            play(args, lambda rate: _file(out, rate, form, args))
    except BrokenPipeError:
        sys.stderr.close()  # who listened has gone, and that is all
    except OSError as error:
        raise UserError(f"cannot write {args.out}: {error}") from None


def checked(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given.

    Raises:
      UserError: a bad argument.
    """
    if not args.length > 0:
        raise UserError(f"--seconds must be more than 0, got {args.length:g}")
    chosen = pieces.settings_of(args)
    check_prompts([args.prompt])
    controls.from_arguments(args)
    seeds_of(args.seed, 1)
    return chosen


Sink = tuple[Callable[[Any], Any], Callable[[], Any]]
"""(what takes a chunk of samples, what is called in the end)."""


def play(args: argparse.Namespace, sink: Callable[[int], Sink]) -> None:
    """Hands chunk after chunk to what `sink` makes for a sample rate."""
    chosen, bundle = checked(args), pieces.bundle_of(args.bundle)

    from melody_jax.generate import Melody

    melody = Melody.load(bundle, adapters=pieces.adapters_of(args.adapter))
    with pieces.plain_warnings():
        asked = controls.from_arguments(args)
        stream = melody.stream(args.prompt, negative=args.negative, seed=args.seed, controls=asked, **chosen)
        take, end = sink(melody.sample_rate)
        if sys.stdin.isatty():
            threading.Thread(target=_listen, args=(stream,), daemon=True).start()
        try:
            left = args.length * melody.sample_rate
            while left > 0:
                chunk = next(stream)
                chunk = chunk[: int(min(left, len(chunk)))]
                take(chunk)
                left -= max(len(chunk), 1)
        finally:
            end()


def _listen(stream: Any) -> None:
    """Every line that is typed is the next prompt."""
    for line in sys.stdin:
        try:
            stream.change(line.strip())
        except UserError as error:
            warnings.warn(str(error), stacklevel=1)


def _raw(samples: Any) -> None:
    sys.stdout.buffer.write(samples.astype("<i2").tobytes())


def _file(out: pathlib.Path, rate: int, form: SoundFormat, args: argparse.Namespace) -> Sink:
    out.parent.mkdir(parents=True, exist_ok=True)
    tags = {"title": args.prompt[:200], "software": f"melody_jax {__version__}", "comment": f"seed {args.seed}"}
    file = open_sound(out, rate, form, tags)
    return lambda chunk: file.write(samples_of(chunk, rate, form)), file.close
