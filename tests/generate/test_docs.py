"""The examples of docs/making_music.md, on a toy bundle."""

import pathlib
import re

import pytest

from melody_jax.cli.main import COMMANDS
from melody_jax.generate import Melody
from melody_jax.generate.settings import with_settings

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "making_music.md").read_text()


@pytest.mark.filterwarnings("ignore:a prompt is longer")
def test_examples_in_python(melody, monkeypatch):
    """As they stand, but with music of a second."""
    monkeypatch.setattr(Melody, "load", lambda directory: melody)
    monkeypatch.setattr(melody, "defaults", with_settings(melody.defaults, {"seconds": 0.8}))
    space = {}
    for block in re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        block = block.replace("seconds=10", "seconds=1.2").replace("seconds=5", "seconds=0.4")
        block = block.replace("(2, 4), (7.5, 8)", "(0.2, 0.4), (0.7, 0.75)")
        exec(compile(block, "docs/making_music.md", "exec"), space)
    assert space["again"].tokens.tolist() == space["repaired"].tokens.tolist()
    assert len({piece.tokens.tobytes() for piece in space["takes"]}) == 4 and len(space["second"])


def test_examples_of_the_shell_are_commands():
    named = re.findall(r"^melody (\w+)", TEXT, re.MULTILINE)
    assert len(named) == 8 and set(named) <= set(COMMANDS)
