"""What an evaluation refuses before it measures."""

import types

import pytest

from melody_jax.errors import UserError
from melody_jax.operations import evaluation


def test_too_few_clips_say_what_to_do(monkeypatch):
    bundle = types.SimpleNamespace(load=lambda directory: types.SimpleNamespace(geometry=None))
    monkeypatch.setattr(evaluation, "Bundle", bundle)
    monkeypatch.setattr(evaluation.read, "read_clips", lambda *which: [None] * 3)
    with pytest.raises(UserError, match="3 clips in the test split .* it takes 4; build it again with a larger --test"):
        evaluation.evaluate(evaluation.Evaluation("bundle", "x", "data", "tokens"))
