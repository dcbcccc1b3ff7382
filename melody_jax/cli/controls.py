"""The flags that fix tempo, key, metre, downbeat, instruments and drums, for every command that makes music."""

import argparse
from typing import Any

EXAMPLE = '--bpm 96 --key "D minor" --metre 3/4 --instruments violin,cello --no-drums'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags, in a group of their own."""
    group = parser.add_argument_group("controls (for models trained with them; else taken from the sentence)")
    group.add_argument("--bpm", metavar="BPM", help="beats per minute, 40 to 208")
    group.add_argument("--key", metavar="KEY", help='tonic and mode: "D minor", "F# major", "Bb m"')
    group.add_argument("--metre", metavar="METRE", help="3/4, 4/4, 6/8, ... or a dance that has one: waltz")
    group.add_argument(
        "--downbeat", metavar="SECONDS", help="of given music: from its start to the first beat of a bar"
    )
    group.add_argument("--instruments", metavar="NAMES", help="all who play, the leading one first: violin,cello")
    group.add_argument("--drums", action=argparse.BooleanOptionalAction, help="with or without a drum kit")


def from_arguments(args: argparse.Namespace) -> Any:
    """What the flags ask for, as `codes.controls.Controls`.

    Raises:
      UserError: a value that cannot be; the message names it and says what can be.
    """
    from melody_jax.codes.control_words import parse

    return parse(args.bpm, args.key, args.metre, args.instruments, args.drums, args.downbeat)
