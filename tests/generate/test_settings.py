"""Settings, seeds and prompts, before any model is loaded."""

import dataclasses
import subprocess
import sys
import typing

import numpy as np
import pytest

from melody_jax.dpd.angles import SCHEDULES
from melody_jax.errors import UserError
from melody_jax.generate.prompts import check_prompts, is_empty, read_prompts
from melody_jax.generate.settings import Changes, Schedule, Settings, seeds_of, with_settings


def test_numpy_numbers_are_numbers():
    chosen = with_settings(Settings(), {"seconds": np.float32(2.5), "steps": np.int64(3), "guidance": 2})
    assert chosen == Settings(seconds=2.5, steps=3, guidance=2.0)
    assert {type(value) for value in dataclasses.astuple(chosen)} == {float, int, str}
    assert Settings(loudness=None).loudness is None


def test_keywords_are_the_fields():
    assert set(Changes.__annotations__) == {field.name for field in dataclasses.fields(Settings)}
    assert typing.get_args(Schedule) == SCHEDULES


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("window_seconds", float("inf"), "window_seconds must be from 0 to 600"),
        ("steps", 2.5, "type int"),
        ("steps", True, "type int"),
        ("steps", 10**9, "steps must be"),
        ("seconds", "3", "type float"),
        ("seconds", None, "type float"),
        ("guidance", float("nan"), "guidance must be"),
        ("clip_latents", float("inf"), "clip_latents must be"),
        ("noise", 1.5, "noise must be from 0 to 1"),
        ("temperature", float("inf"), "temperature must be"),
        ("schedule", 3, "type str"),
        ("loudness", 3.0, "loudness must be"),
        ("loudness", "loud", "type float"),
        ("top_p", 0.0, "top_p"),
        ("candidates", np.int32(0), "candidates must be"),
    ],
)
def test_values_out_of_range_are_one_line(name, value, words):
    with pytest.raises(UserError, match=words) as caught:
        with_settings(Settings(), {name: value})
    assert "\n" not in str(caught.value)


def test_every_piece_has_a_seed_of_its_own():
    eight = seeds_of(1, 8)
    assert eight[0] == 1 and len(set(eight)) == 8
    assert not set(eight[1:]) & set(seeds_of(2, 8))  # the next seed is not this one's second piece
    assert seeds_of(np.int64(7), 1) == [7] and seeds_of(np.array([3, 4]), 2) == [3, 4] == seeds_of((3, 4), 2)


@pytest.mark.parametrize("seed", [None, 1.5, -1, 2**32, "1", True, [1, None], [1], np.array([1.0, 2.0])])
def test_bad_seeds(seed):
    with pytest.raises(UserError, match="seed"):
        seeds_of(seed, 2)


@pytest.mark.parametrize("text", ["", "  ", "\u200b\u200d\ufeff", "\x00", "\u0301", "\u00a0\t"])
def test_what_has_no_width_is_empty(text):
    assert is_empty(text)
    with pytest.raises(UserError, match="prompt 2 of 2 is empty"):
        check_prompts(["a waltz", text])


def test_prompts_that_are_no_text():
    for prompt in (3, None, b"waltz"):
        with pytest.raises(UserError, match="is not a text"):
            check_prompts([prompt])
    with pytest.raises(UserError, match="prompt 2 of 2 has 12000000 characters, at most 10000 can be used"):
        check_prompts(["a waltz", "a waltz " * 1_500_000])
    with pytest.raises(UserError, match="no text in UTF-8"):
        check_prompts(["great tune \ud83c"])


def test_prompt_files(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa fête\r\n\n \u200b\nwaltz\n".encode())
    assert read_prompts(file) == ["a fête", "waltz"]
    file.write_bytes("waltz\nfête".encode("latin-1"))
    with pytest.raises(UserError, match="prompts.txt, line 2: not UTF-8"):
        read_prompts(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(tmp_path)


def test_help_and_argument_errors_do_not_import_jax():
    commands = ["generate", "continue", "inpaint", "vary", "stream", "play"]
    code = f"""
import sys
from melody_jax.cli.main import main
for command in {commands}:
    try:
        main([command, "--help"])
    except SystemExit as end:
        assert end.code == 0
assert main(["generate", "a", "--steps", "0"]) == 2
assert main(["stream", "a", "--temperature", "-1"]) == 2
assert main(["vary", "/nowhere.wav"]) == 2
print([name for name in ("jax", "flax", "matplotlib", "scipy", "tensorflow") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]", done.stderr
