"""Cost of stacks from the cost of some of their layers, against the stack written out."""

import dataclasses

import pytest

from melody_jax.ahead import loops
from melody_jax.ahead.program import Cost


@dataclasses.dataclass(frozen=True)
class Stack:
    layers: int
    unroll: int = 1


@dataclasses.dataclass(frozen=True)
class Model:
    first: Stack
    second: Stack = Stack(3, 4)
    width: int = 8


def told(config):
    """As the compiler tells it: 5 seconds around the stacks, 2 and 7 for each layer that stands in a body."""
    bodies = min(config.first.unroll, config.first.layers), min(config.second.unroll, config.second.layers)
    seconds = 5.0 + 2 * bodies[0] + 7 * bodies[1]
    return Cost(0, 0, 0, 0, 10 * seconds, {}, seconds)


@pytest.mark.parametrize(
    "config",
    [
        Model(Stack(24)),
        Model(Stack(24, 2), Stack(15, 3)),
        Model(Stack(7)),
        Model(Stack(4, 4), Stack(2, 9)),
        Model(Stack(9, 3), Stack(1)),
    ],
)
def test_every_layer_counts(config):
    calls = []
    found = loops.whole_cost(config, told(config), lambda other: calls.append(other) or told(other))
    written_out = 5.0 + 2 * config.first.layers + 7 * config.second.layers
    assert found.seconds == pytest.approx(written_out) and found.flops == pytest.approx(10 * written_out)
    assert len(calls) == sum(stack.unroll < stack.layers for stack in (config.first, config.second))
    for call in calls:  # bodies that do not divide a stack would leave layers behind the loop
        assert all(stack.layers % min(stack.unroll, stack.layers) == 0 for stack in (call.first, call.second))
