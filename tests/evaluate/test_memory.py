"""Whether the language model knows again what it has heard, of models whose answer is known."""

import numpy as np
import pytest

from melody_jax.evaluate.models import memory

MULAN, PASSAGES = np.zeros((3, 2), int), np.arange(12).reshape(3, 4)


def test_a_copying_model_pays_little_for_what_is_repeated():
    """2 nats where a token is new, 0.5 where the same one stood four places before."""

    def copying(mulan, tokens):
        before = np.pad(tokens, ((0, 0), (4, 0)), constant_values=-1)[:, :-4]
        return np.where(tokens == before, 0.5, 2.0)

    figure = memory(copying, MULAN, PASSAGES)
    assert figure.value == pytest.approx(0.25)
    assert figure.baseline == "0.500 / 2.000 nats"


def test_a_model_of_what_is_near_pays_the_same():
    assert memory(lambda mulan, tokens: np.full(tokens.shape, 3.0), MULAN, PASSAGES).value == pytest.approx(1.0)
