"""docs/controls.md: its example prints what it says, its flags are flags, its table is the code's."""

import argparse
import pathlib
import re
import shlex
import subprocess
import sys

from melody_jax.cli.music import CONTROLS, controls_of
from melody_jax.codes.controls import METRES, SIZES, Controls

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "controls.md").read_text()


def test_the_example_prints_what_the_page_says():
    example, printed = re.search(r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", PAGE, re.DOTALL).groups()
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == printed


def test_the_command_asks_for_what_it_says():
    (command,) = re.findall(r"^    melody generate (.*)$", PAGE, re.MULTILINE)
    parser = argparse.ArgumentParser()
    parser.add_argument("prompts", nargs="*")
    parser.add_argument("--out")
    CONTROLS(parser)
    asked = controls_of(parser.parse_args(shlex.split(command)))
    assert asked == Controls(96.0, (2, "minor"), None, False, ("violin", "cello"))


def test_every_flag_of_the_table_is_one():
    parser = argparse.ArgumentParser()
    CONTROLS(parser)
    shown = re.findall(r"`(--[^`]*)`", PAGE)
    assert len(shown) >= 8
    for flag in shown:
        words = shlex.split(flag)
        if len(words) == 2:
            assert controls_of(parser.parse_args(words))
        else:
            assert words[0] in parser.format_help()


def test_the_table_is_the_codes():
    assert f"one of {SIZES[0] - 1} whole numbers" in PAGE
    assert ", ".join(METRES[:-1]) in PAGE
