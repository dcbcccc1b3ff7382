"""The memory of the last vectors."""

import jax.numpy as jnp
import numpy as np

from melody_jax.codes import memory


def test_it_holds_the_last_rows_and_knows_which_are_filled():
    capacity = memory.size(5, 2)
    assert capacity == 6
    rows = jnp.zeros((capacity, 1))
    for step in range(5):
        pushed = jnp.full((2, 1), step + 1.0)
        rows = memory.push(rows, pushed, jnp.int32(step))
        filled = np.asarray(memory.filled(rows, 2, jnp.int32(step)))
        assert filled.sum() == min(2 * (step + 1), capacity)
    assert sorted(rows[:, 0].tolist()) == [3.0, 3.0, 4.0, 4.0, 5.0, 5.0]


def test_variance_of_the_filled_rows():
    rows = jnp.array([[1.0, 0.0], [3.0, 0.0], [99.0, 99.0]])
    assert float(memory.variance(rows, jnp.array([True, True, False]))) == 1.0
