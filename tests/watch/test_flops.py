"""FLOPs counted from traces against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from melody_jax.watch import flops


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_products_count_two_for_each_multiply_accumulate():
    assert flops.count(jnp.matmul, shape(5, 7), shape(7, 3)) == 2 * 5 * 7 * 3
    attention = lambda q, k: jnp.einsum("blhd,bmhd->bhlm", q, k)  # noqa: E731
    assert flops.count(attention, shape(2, 5, 3, 4), shape(2, 6, 3, 4)) == 2 * 2 * 3 * 5 * 6 * 4
    assert flops.count(lambda x: jnp.sum(jnp.exp(x) * x), shape(9, 9)) == 0


def test_a_training_step_of_a_dense_layer_costs_three_forward_passes():
    def loss(w, x):
        return jnp.sum(jnp.square(x @ w))

    forward = flops.count(loss, shape(7, 3), shape(5, 7))
    assert flops.count(jax.grad(loss, argnums=(0, 1)), shape(7, 3), shape(5, 7)) == 3 * forward
    assert flops.count(jax.grad(loss), shape(7, 3), shape(5, 7)) == 2 * forward


def convolve(x, w, stride=1, dilation=1, groups=1):
    return jax.lax.conv_general_dilated(
        x, w, (stride,), "VALID", (dilation,), dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups
    )


def test_convolutions_and_their_gradients():
    x, w = shape(2, 32, 6), shape(4, 6, 8)
    forward = 2 * 2 * 15 * 8 * 4 * 6
    assert flops.count(lambda x, w: convolve(x, w, stride=2), x, w) == forward
    loss = lambda x, w: jnp.sum(jnp.square(convolve(x, w, stride=2)))  # noqa: E731
    whole = flops.count(jax.grad(loss, argnums=(0, 1)), x, w)
    assert whole == pytest.approx(3 * forward, rel=0.1)  # but for the edges
    depthwise = shape(4, 1, 6)
    assert flops.count(lambda x, w: convolve(x, w, groups=6), x, depthwise) == 2 * 2 * 29 * 6 * 4


def test_transposed_convolutions_do_not_count_the_zeros():
    x, w = shape(2, 10, 6), shape(8, 6, 3)
    up = lambda x, w: jax.lax.conv_transpose(x, w, (4,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))  # noqa: E731
    assert flops.count(up, x, w) == 2 * 2 * 40 * 3 * 8 * 6 // 4


def test_loops_count_as_often_as_they_run():
    def scanned(x, w):
        return jax.lax.scan(lambda carry, _: (carry @ w, None), x, None, length=11)[0]

    one = 2 * 5 * 7 * 7
    assert flops.count(scanned, shape(5, 7), shape(7, 7)) == 11 * one
    assert flops.count(jax.jit(jax.vmap(scanned, (0, None))), shape(4, 5, 7), shape(7, 7)) == 4 * 11 * one

    def either(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    assert flops.count(either, shape(5, 7), shape(7, 7)) == 2 * one

    def endless(x, w):
        return jax.lax.while_loop(lambda c: c[0, 0] > 0, lambda c: c @ w, x)

    with pytest.raises(ValueError, match="unknown number of times"):
        flops.count(endless, shape(5, 7), shape(7, 7))


def test_rematerialised_products_count_twice_unless_the_caller_turns_that_off():
    def loss(w, x, block):
        return jnp.sum(jnp.square(block(block(x, w), w)))

    block = lambda x, w: jnp.tanh(x @ w)  # noqa: E731
    plain, again = (
        flops.count(jax.grad(lambda w, x, b=b: loss(w, x, b)), shape(7, 7), shape(5, 7))
        for b in (block, jax.checkpoint(block))
    )
    assert again > plain
