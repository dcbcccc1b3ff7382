"""The flags of controls."""

import argparse

import pytest

from melody_jax.cli.music import CONTROLS, controls_of
from melody_jax.codes.controls import Controls
from melody_jax.errors import UserError


def _read(*flags):
    parser = argparse.ArgumentParser()
    CONTROLS(parser)
    return controls_of(parser.parse_args(flags))


def test_flags_are_controls():
    assert _read() == Controls()
    given = _read("--bpm", "96", "--key", "D minor", "--metre", "3/4", "--instruments", "violin,cello", "--no-drums")
    assert given == Controls(96.0, (2, "minor"), "3/4", False, ("violin", "cello"))
    assert _read("--drums") == Controls(drums=True)


def test_a_wrong_flag_is_a_user_error():
    with pytest.raises(UserError, match="did you mean cello"):
        _read("--instruments", "violin,chello")
