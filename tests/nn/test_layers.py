"""Layers against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.nn import attention, conv, dense, feedforward, norm
from melody_jax.nn.remat import POLICIES
from melody_jax.parallel import activations


def _normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_matmul_and_its_gradients_equal_numpy():
    x, w, g = _normal(0, 3, 5, 8), _normal(1, 8, 4), _normal(2, 3, 5, 4)
    y, vjp = jax.vjp(dense.matmul, x, w)
    dx, dw = vjp(g)
    np.testing.assert_allclose(y, np.asarray(x) @ np.asarray(w), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, np.asarray(g) @ np.asarray(w).T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dw, np.einsum("bti,bto->io", x, g), rtol=1e-5, atol=1e-5)


def test_bfloat16_product_accumulates_in_float32():
    # 4096 ones: bfloat16 accumulation would stop at 256.
    x, w = jnp.ones((2, 4096), jnp.bfloat16), jnp.ones((4096, 3), jnp.float32)
    assert float(dense.matmul(x, w)[0, 0]) == 4096
    dw = jax.grad(lambda w: dense.matmul(x.T.reshape(4096, 2), w).astype(jnp.float32).sum())(jnp.ones((2, 3)))
    assert dw.dtype == jnp.float32 and float(dw[0, 0]) == 4096


@pytest.mark.parametrize("on_tpu", [False, True])
@pytest.mark.parametrize("shape", [(6,), (4, 6), (3, 5, 6), (2, 3, 5, 6)])
def test_adding_a_bias_has_the_gradients_of_a_plain_sum(monkeypatch, shape, on_tpu):
    monkeypatch.setattr(activations, "on_tpu", lambda: on_tpu)
    y, bias, g = (x.astype(jnp.bfloat16) for x in (_normal(0, *shape), _normal(1, 6), _normal(2, *shape)))
    found, vjp = jax.vjp(dense.add_bias, y, bias.astype(jnp.float32))
    np.testing.assert_array_equal(found, y + bias.reshape((1,) * (y.ndim - 1) + (-1,)))
    dy, db = vjp(g)
    np.testing.assert_array_equal(dy, g)
    assert db.dtype == jnp.float32
    np.testing.assert_allclose(db, np.asarray(g, np.float32).reshape(-1, 6).sum(0), rtol=1e-2 if on_tpu else 1e-5)


@pytest.mark.parametrize("on_tpu", [False, True])
def test_the_gradient_of_a_bias_accumulates_in_float32(monkeypatch, on_tpu):
    # 4096 ones: bfloat16 accumulation would stop at 256.
    monkeypatch.setattr(activations, "on_tpu", lambda: on_tpu)
    y = jnp.ones((4, 1024, 3), jnp.bfloat16)
    assert float(jax.grad(lambda b: dense.add_bias(y, b).astype(jnp.float32).sum())(jnp.ones(3))[0]) == 4096


def test_what_a_layer_keeps_has_its_bias():
    """With "dots" the backward pass reads a product with its bias as it was kept: it adds no bias again."""
    layer = nn.remat(_TwoMaps, policy=POLICIES["dots"])()
    variables = layer.init(jax.random.key(0), jnp.ones((2, 5, 8)))
    _, vjp = jax.vjp(lambda v: layer.apply(v, jnp.ones((2, 5, 8))), variables)
    text = str(jax.make_jaxpr(vjp)(jnp.ones((2, 5, 8))))
    assert "dot_general" in text and " add " not in text


class _TwoMaps(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.sin(dense.Dense(8, name="second")(jnp.sin(dense.Dense(6, name="first")(x))))


def test_batched_matmul_gradients():
    a, b, g = _normal(0, 2, 3, 4, 5), _normal(1, 2, 3, 5, 6), _normal(2, 2, 3, 4, 6)
    _, vjp = jax.vjp(dense.batched_matmul, a, b)
    _, expected = jax.vjp(jnp.matmul, a, b)
    for ours, theirs in zip(vjp(g), expected(g), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_softmax_and_its_gradient_equal_jax(masked):
    logits, g = _normal(0, 2, 3, 4, 6), _normal(1, 2, 3, 4, 6)
    mask = jnp.tril(jnp.ones((4, 6), bool), 1) if masked else jnp.ones((4, 6), bool)
    mask = mask[None, None]
    weights, vjp = jax.vjp(lambda x: attention.softmax(x, mask if masked else None), logits)
    expected, expected_vjp = jax.vjp(lambda x: jax.nn.softmax(jnp.where(mask, x, -jnp.inf), axis=-1), logits)
    np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(vjp(g)[0], expected_vjp(g)[0], rtol=1e-5, atol=1e-6)
    half, vjp = jax.vjp(lambda x: attention.softmax(x, mask), logits.astype(jnp.bfloat16))
    assert half.dtype == vjp(half)[0].dtype == jnp.bfloat16


def test_norms():
    x = _normal(0, 4, 16) * 3.0 + 1.0
    y, _ = norm.LayerNorm().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(np.mean(y, -1), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(y, -1), 1, atol=1e-3)
    y, _ = norm.RMSNorm().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(np.mean(np.square(y), -1), 1, atol=1e-3)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_depends_on_relative_position_only(interleaved):
    q, k = _normal(0, 1, 1, 1, 8), _normal(1, 1, 1, 1, 8)

    def product(m, n):
        at = lambda p: jnp.full((1, 1), p, jnp.int32)  # noqa: E731
        return float(
            jnp.vdot(
                attention.rotary(q, at(m), interleaved=interleaved), attention.rotary(k, at(n), interleaved=interleaved)
            )
        )

    assert np.isclose(product(5, 2), product(103, 100), rtol=1e-3)
    assert not np.isclose(product(5, 2), product(5, 3), rtol=1e-3)


def test_attention_equals_numpy():
    x = _normal(0, 2, 6, 16)
    layer = attention.Attention(heads=2, head_dim=8)
    (y, _), variables = layer.init_with_output(jax.random.key(0), x, mask=attention.causal_mask(6))
    p = nn.meta.unbox(variables)["params"]
    q, k, v = (np.asarray(x) @ np.asarray(p[n]["kernel"]) for n in ("query", "key", "value"))
    heads = []
    for h in range(2):
        s = slice(8 * h, 8 * h + 8)
        logits = q[..., s] @ k[..., s].swapaxes(-1, -2) / np.sqrt(8)
        logits = np.where(np.tril(np.ones((6, 6), bool)), logits, -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v[..., s])
    np.testing.assert_allclose(y, np.concatenate(heads, -1) @ np.asarray(p["out"]["kernel"]), atol=1e-5)


@pytest.mark.parametrize("tpu", [False, True])
def test_cached_attention_equals_full(tpu, monkeypatch):
    """Also with one query's heads as rows of a product, as TPUs have them."""
    monkeypatch.setattr(activations, "on_tpu", lambda: tpu)
    x = _normal(0, 2, 6, 16)
    layer = attention.Attention(heads=2, head_dim=8, rope=10_000.0)
    (full, _), variables = layer.init_with_output(jax.random.key(0), x, mask=attention.causal_mask(6))
    empty = jnp.zeros((1, 2, 6, 16))
    cache, steps = attention.KVCache(empty, empty, jnp.int32(0)), []
    for i in range(6):
        mask = (jnp.arange(6) <= i)[None, None, None, :]
        y, cache = layer.apply(variables, x[:, i : i + 1], mask=mask, cache=cache.replace(length=jnp.int32(i)))
        steps.append(y)
    np.testing.assert_allclose(jnp.concatenate(steps, 1), full, atol=1e-5)
    seen = (jnp.arange(6)[None] < jnp.array([[6], [3]]))[:, None, None]
    once = attention.attend_once(x[:, :1], x, 2 * x, 8, seen)
    split = [t.reshape(2, -1, 2, 8) for t in (x[:, :1], x, 2 * x)]
    np.testing.assert_allclose(once, attention.attend(*split, seen).reshape(once.shape), atol=1e-5)


@pytest.mark.parametrize(
    "stride,dilation,padding,groups", [(1, 1, "SAME", 1), (2, 1, "SAME", 1), (3, 2, 4, 1), (1, 3, "VALID", 2)]
)
def test_conv1d_equals_lax(stride, dilation, padding, groups):
    x = _normal(0, 2, 25, 4)
    layer = conv.Conv1d(6, 5, stride, dilation, groups, padding)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    kernel = nn.meta.unbox(variables)["params"]["kernel"]
    pads = [(padding, padding)] if isinstance(padding, int) else padding
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride,),
        pads,
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups,
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "stride", "dilation", "padding"),
    [(2, 1, 1, "SAME"), (2, 1, 3, "SAME"), (2, 1, 2, "VALID"), (2, 1, 1, (5, 0))]
    + [(8, 4, 1, "VALID"), (8, 2, 1, "SAME"), (8, 5, 1, 3), (8, 7, 1, "VALID")],
)
def test_conv1d_and_its_gradients_are_the_same_on_tpus(rows, stride, dilation, padding, monkeypatch):
    x = _normal(0, rows, 25, 30)
    layer = conv.Conv1d(6, 5, stride, dilation, padding=padding)
    params = nn.meta.unbox(layer.init(jax.random.key(0), x))

    def run(params, x):
        return jnp.sum(jnp.sin(layer.apply(params, x)))

    unfolded = jax.grad(run, argnums=(0, 1))(params, x)
    monkeypatch.setattr(activations, "on_tpu", lambda: True)
    assert "conv_general_dilated" in str(jax.make_jaxpr(run)(params, x)), "it is a convolution there"
    direct = jax.grad(run, argnums=(0, 1))(params, x)
    for ours, expected in zip(jax.tree.leaves(direct), jax.tree.leaves(unfolded), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "taps", "stride", "dilation", "direct"),
    [(8, 3, 1, 1, True), (7, 3, 1, 1, False), (8, 1, 1, 1, False), (8, 3, 2, 1, True), (8, 3, 2, 2, False)],
)
def test_channels_that_fill_lanes_are_convolved_where_rows_fill_sublanes(
    rows, taps, stride, dilation, direct, monkeypatch
):
    monkeypatch.setattr(activations, "on_tpu", lambda: True)
    x, layer = jnp.zeros((rows, 9, 128)), conv.Conv1d(4, taps, stride, dilation)
    program = str(jax.make_jaxpr(lambda: layer.init_with_output(jax.random.key(0), x)[0])())
    assert ("conv_general_dilated" in program) == direct


def test_products_and_their_gradients_are_the_same_on_tpus(monkeypatch):
    x, w = _normal(0, 2, 3, 5, 4), _normal(1, 4, 6)

    def run(x, w):
        return jnp.sum(jnp.sin(dense.matmul(x, w)))

    flat = jax.value_and_grad(run, argnums=(0, 1))(x, w)
    monkeypatch.setattr(activations, "on_tpu", lambda: True)
    whole = jax.value_and_grad(run, argnums=(0, 1))(x, w)
    jax.tree.map(lambda ours, expected: np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6), whole, flat)


def test_gradients_of_weights_leave_a_tpu_in_bfloat16(monkeypatch):
    """Chips add them as they come; each chip's own are sums in float32, which 4096 ones show."""
    x, w = jnp.ones((1, 4096, 2), jnp.bfloat16), jnp.ones((2, 3))
    gradient = jax.grad(lambda w: dense.matmul(x, w).astype(jnp.float32).sum())
    assert "f32[2,3] = dot_general" in str(jax.make_jaxpr(gradient)(w))
    monkeypatch.setattr(activations, "on_tpu", lambda: True)
    assert "bf16[2,3] = dot_general" in str(jax.make_jaxpr(lambda w: gradient(w))(w))
    assert gradient(w).dtype == jnp.float32 and float(gradient(w)[0, 0]) == 4096


@pytest.mark.parametrize(("taps", "dilation"), [(7, 2), (4, 1)])
def test_depthwise_and_its_gradients_equal_a_grouped_convolution(taps, dilation):
    x, layer = _normal(0, 2, 20, 4), conv.DepthwiseConv1d(taps, dilation, use_bias=False)
    kernel = nn.meta.unbox(layer.init(jax.random.key(0), x))["params"]["kernel"]

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel[:, None], (1,), "SAME", rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=4,
        )  # fmt: skip

    def ours(x, kernel):
        return layer.apply({"params": {"kernel": kernel}}, x)

    np.testing.assert_allclose(ours(x, kernel), grouped(x, kernel), atol=1e-5)
    gradients = [
        jax.grad(lambda *at, run=run: jnp.sum(jnp.sin(run(*at))), (0, 1))(x, kernel) for run in (ours, grouped)
    ]
    for found, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kernel,stride", [(4, 2), (8, 4), (11, 5), (3, 3), (9, 4), (7, 2)])
def test_transposed_convolution_by_definition(kernel, stride):
    x = _normal(0, 1, 7, 3)
    y, variables = conv.ConvTranspose1d(2, kernel, stride).init_with_output(jax.random.key(0), x)
    w, trim = np.asarray(nn.meta.unbox(variables)["params"]["kernel"]), (kernel - stride + 1) // 2
    full = np.zeros((7 * stride + kernel - stride, 2))
    for t in range(7):  # every input frame pastes its kernel at t * stride
        full[t * stride : t * stride + kernel] += np.einsum("kio,i->ko", w, np.asarray(x)[0, t])
    assert y.shape == (1, 7 * stride, 2)
    np.testing.assert_allclose(y[0], full[trim : trim + 7 * stride], atol=1e-5)


def test_feedforward_swiglu_by_definition():
    x = _normal(0, 3, 8)
    y, variables = feedforward.FeedForward(12, "swiglu", use_bias=False).init_with_output(jax.random.key(0), x)
    p = nn.meta.unbox(variables)["params"]
    gate, inner = (np.asarray(x) @ np.asarray(p[n]["kernel"]) for n in ("gate", "in"))
    np.testing.assert_allclose(y, (gate / (1 + np.exp(-gate)) * inner) @ np.asarray(p["out"]["kernel"]), atol=1e-5)
