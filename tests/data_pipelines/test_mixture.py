from fractions import Fraction

import numpy as np
import pytest

from data_pipelines import mixture
from melody_jax.errors import UserError


def test_rates_are_read():
    assert mixture.parse("mine") == {"mine": 1}
    assert mixture.parse("a:0.7, b:0.3") == mixture.parse("a:7,b:3") == {"a": Fraction(7, 10), "b": Fraction(3, 10)}
    assert mixture.whole_numbers([0.7, 0.3]) == (7, 3)
    assert mixture.whole_numbers([1 / 3, 1 / 3, 1 / 3]) == (1, 1, 1)


@pytest.mark.parametrize(
    "data", ["a:0.7,b", "a:0.7,a:0.3", "a:0,b:1", "a:-1,b:2", "a:x,b:1", ":1,b:1", "a,b", "a:1/0,b:1"]
)
def test_rates_that_cannot_be_read_are_one_sentence(data):
    with pytest.raises(UserError, match="expected NAME:RATE"):
        mixture.parse(data)
    with pytest.raises(UserError, match="less than a millionth"):
        mixture.whole_numbers([1.0, 1e-9])


@pytest.mark.parametrize("weights", [(1,), (7, 3), (1, 1, 1), (5, 1, 3, 2), (1, 999)])
def test_every_data_set_gives_its_share_one_example_after_another(weights):
    positions = np.arange(3000)
    which, index = mixture.deal(positions, weights)
    for number, weight in enumerate(weights):
        mine = which == number
        np.testing.assert_array_equal(index[mine], np.arange(mine.sum()))
        assert np.abs(np.cumsum(mine) - (positions + 1) * weight / sum(weights)).max() < len(weights)
    far, count = np.arange(10**12, 10**12 + 1000), sum(weights)
    for each, again in zip(mixture.deal(far, weights), mixture.deal(far[500:], weights)):
        np.testing.assert_array_equal(each[500:], again)  # of the position alone
    np.testing.assert_array_equal(np.bincount(mixture.deal(far[:count], weights)[0]), weights)
