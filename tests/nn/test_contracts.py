"""One contract for all layers: shape, dtype, axes, rows, padding, causality, gradient (after google/sequence-layers).

A layer's own tests hold only what is its own: its equations.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from melody_jax.nn.attention import Attention
from melody_jax.nn.conformer import BatchNorm, Conformer, ConformerConfig
from melody_jax.nn.conv import Conv1d, ConvTranspose1d, DepthwiseConv1d
from melody_jax.nn.dense import Dense
from melody_jax.nn.feedforward import FeedForward
from melody_jax.nn.norm import LayerNorm, RMSNorm
from melody_jax.nn.recurrent import SRU

FRAMES, SHORT, WIDTH = 8, 5, 8
X = jax.random.normal(jax.random.key(0), (2, FRAMES, WIDTH))
PUSH = jax.random.normal(jax.random.key(4), (1, WIDTH))
MASK = jnp.arange(FRAMES)[None] < jnp.array([[FRAMES], [SHORT]])
Sees = Literal["itself", "before", "unmasked", "around"]


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer and what it promises.

    Attributes:
      build: compute dtype -> layer.
      sees: the inputs that an output depends on: that of its own frame, those up to it, all that the mask shows, or any.
      call: (layer, x, mask) -> y.
      shape: of y for one row.
      still: ends of the names of parameters that change nothing, by the layer's own symmetry.
    """

    build: Callable[[str], nn.Module]
    sees: Sees
    call: Callable[..., Any] = lambda layer, x, mask: layer(x)
    shape: tuple[int, int] = (FRAMES, WIDTH)
    still: tuple[str, ...] = ()


def conformer(positions: str, **changes: Any) -> Case:
    """A Conformer. A constant added to all keys moves all scores alike, unless keys are turned by their places."""
    config = ConformerConfig(layers=2, heads=2, hidden=16, kernel=3, dropout=0.0, positions=positions, **changes)
    return Case(
        lambda dtype: Conformer(dataclasses.replace(config, dtype=dtype)),
        "unmasked",
        lambda layer, x, mask: layer(x, mask),
        still=("['key']['bias']",),
    )


LAYERS = {
    "dense": Case(lambda dtype: Dense(6, dtype=dtype), "itself", shape=(FRAMES, 6)),
    "rms norm": Case(lambda dtype: RMSNorm(), "itself"),
    "layer norm": Case(lambda dtype: LayerNorm(), "itself"),
    "batch norm": Case(lambda dtype: BatchNorm(), "itself"),
    "feed-forward": Case(lambda dtype: FeedForward(16, dtype=dtype), "itself"),
    "feed-forward, gated": Case(lambda dtype: FeedForward(16, "swiglu", False, dtype), "itself"),
    "convolution": Case(lambda dtype: Conv1d(6, 3, dtype=dtype), "around", shape=(FRAMES, 6)),
    "convolution in groups": Case(lambda dtype: Conv1d(6, 3, groups=2, dtype=dtype), "around", shape=(FRAMES, 6)),
    "convolution, padded before": Case(
        lambda dtype: Conv1d(6, 3, dilation=2, padding=(4, 0), dtype=dtype), "before", shape=(FRAMES, 6)
    ),
    "convolution with strides": Case(lambda dtype: Conv1d(6, 3, 2, dtype=dtype), "around", shape=(FRAMES // 2, 6)),
    "depthwise convolution": Case(lambda dtype: DepthwiseConv1d(3, dtype=dtype), "around"),
    "transposed convolution": Case(
        lambda dtype: ConvTranspose1d(6, 4, 2, dtype=dtype), "around", shape=(2 * FRAMES, 6)
    ),
    "SRU": Case(lambda dtype: SRU(6, layers=2, dtype=dtype), "before", shape=(FRAMES, 6)),
    "SRU in steps": Case(lambda dtype: SRU(WIDTH, scan="sequential", dtype=dtype), "before"),
    "SRU both ways": Case(lambda dtype: SRU(6, True, 2, dtype=dtype), "around", shape=(FRAMES, 12)),
    "attention": Case(
        lambda dtype: Attention(2, 4, rope=10_000.0, dtype=dtype),
        "unmasked",
        lambda layer, x, mask: layer(x, mask=mask[:, None, None])[0],
    ),
    "attention, causal": Case(
        lambda dtype: Attention(2, 4, rope=10_000.0, dtype=dtype),
        "before",
        lambda layer, x, mask: layer(x, causal=True)[0],
    ),
    **{f"Conformer, {at}": conformer(at) for at in ("rotary", "rotary_input", "relative", "none")},
    "Conformer, batch norm": conformer("none", convolution_norm="batch"),
}


def made(case: Case) -> Any:
    """Boxed variables, abstract."""
    return jax.eval_shape(lambda x: case.build("float32").init(jax.random.key(1), x, MASK, method=case.call), X)


def drawn(case: Case) -> Any:
    """Variables at random: no bias and no gain is what it begins with. Variances stay above zero."""
    leaves, tree = jax.tree.flatten(nn.unbox(made(case)))
    rng = np.random.default_rng(2)
    return jax.tree.unflatten(
        tree,
        [
            jnp.asarray(rng.uniform(0.1, 0.9, leaf.shape) * rng.choice([1, -1], leaf.shape), leaf.dtype)
            for leaf in leaves
        ],
    )


@functools.cache
def applied(case: Case, dtype: str = "float32") -> Callable[..., Any]:
    layer = case.build(dtype)
    return jax.jit(lambda variables, x, mask=MASK: layer.apply(variables, x, mask, method=case.call))


@functools.cache
def variables_of(case: Case) -> Any:
    found = drawn(case)
    return found | {"measured": jax.tree.map(jnp.abs, found["measured"])} if "measured" in found else found


def check_shape_and_dtype(case: Case) -> None:
    """The result has the shape that is said and the dtype of the computation; parameters are float32, each axis named."""
    boxed = made(case)
    boxes = jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
    for box in boxes:
        assert isinstance(box, nn.LogicallyPartitioned) and len(box.names) == box.value.ndim, "an axis has no name"
        assert box.value.dtype == jnp.float32
    for dtype in ("float32", "bfloat16"):
        y = jax.eval_shape(applied(case, dtype), nn.unbox(boxed), X.astype(dtype))
        assert y.shape == (len(X), *case.shape) and y.dtype == dtype


def check_rows(case: Case) -> None:
    """What a row gives does not depend on the rows beside it."""
    variables, apply = variables_of(case), applied(case)
    other = apply(variables, X.at[0].set(-3.0 * X[0] + 1.0))
    np.testing.assert_array_equal(apply(variables, X)[1], other[1])


def check_padding(case: Case) -> None:
    """Whatever lies in the padding, and however much of it there is, the frames before it give the same."""
    if case.sees == "around":
        return
    variables, apply = variables_of(case), applied(case)
    padded = apply(variables, X.at[1, SHORT:].set(9.0))[1, :SHORT]
    np.testing.assert_allclose(padded, apply(variables, X[:, :SHORT], MASK[:, :SHORT])[1], rtol=1e-4, atol=2e-5)


def check_causality(case: Case) -> None:
    """Frames depend on the frames that the case names, and on no other; on those they do depend."""
    variables, apply = variables_of(case), applied(case)
    everything = jnp.ones_like(MASK)

    def touched(frame: int) -> np.ndarray:
        moved = apply(variables, X.at[:, frame].add(PUSH), everything) - apply(variables, X, everything)
        return np.abs(np.asarray(moved)).max((0, 2)) > 1e-6

    places = np.arange(FRAMES)
    if case.sees == "itself":
        np.testing.assert_array_equal(touched(SHORT), places == SHORT)
    elif case.sees == "before":
        assert not touched(SHORT)[:SHORT].any() and touched(SHORT)[SHORT:].any() and touched(0)[2]
    else:
        middle = case.shape[0] // 2
        assert touched(FRAMES // 2)[:middle].any() and touched(FRAMES // 2)[middle:].any()


def check_gradient(case: Case) -> None:
    """Finite, float32, and none is zero throughout; finite also in bfloat16."""
    weights = jax.random.normal(jax.random.key(3), (len(X), *case.shape))
    variables = variables_of(case)
    for dtype in ("float32", "bfloat16"):
        apply = applied(case, dtype)

        def loss(params: Any, x: Any, apply: Any = apply) -> Any:
            return jnp.sum(weights * apply(variables | {"params": params}, x).astype(jnp.float32))

        found = jax.jit(jax.grad(loss, (0, 1)))(variables["params"], X.astype(dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(found[0]):
            name = jax.tree_util.keystr(path)
            assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all(), name
            assert dtype == "bfloat16" or name.endswith(case.still or ("no such name",)) or np.abs(leaf).max() > 1e-5, (
                name
            )
        assert found[1].dtype == dtype and np.isfinite(found[1].astype(jnp.float32)).all() and jnp.any(found[1] != 0)


CONTRACTS = {
    check.__name__.removeprefix("check_"): check
    for check in (check_shape_and_dtype, check_rows, check_padding, check_causality, check_gradient)
}


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_layer(layer, contract):
    CONTRACTS[contract](LAYERS[layer])


class Wrong(nn.Module):
    """y = x w, and one thing wrong with it."""

    wrong: str

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.ones
        named = init if self.wrong == "no name" else nn.with_logical_partitioning(init, ("embed",))
        w: Any = self.param("w", named, (x.shape[-1],), jnp.float32)
        w = jax.lax.stop_gradient(w) if self.wrong == "no gradient" else w
        y = x * w.astype(x.dtype)[None, None]
        mean = jnp.mean(x, axis=1, keepdims=True)
        return {
            "wide": y.astype(jnp.float32),
            "rows": y + jnp.sum(x, axis=0, keepdims=True),
            "mean": y + mean,
            "later": y + jnp.flip(x, axis=1),
        }.get(self.wrong, y)


@pytest.mark.parametrize(
    ("wrong", "sees", "contract"),
    [
        ("no name", "itself", "shape_and_dtype"),
        ("wide", "itself", "shape_and_dtype"),
        ("rows", "itself", "rows"),
        ("mean", "unmasked", "padding"),
        ("later", "before", "causality"),
        ("mean", "itself", "causality"),
        ("nothing", "before", "causality"),
        ("no gradient", "itself", "gradient"),
    ],
)
def test_a_layer_that_breaks_a_contract_fails(wrong, sees, contract):
    with pytest.raises(AssertionError):
        CONTRACTS[contract](Case(lambda dtype: Wrong(wrong), sees))


def test_the_convolution_of_hugging_face_leaks_padding():
    """As theirs does, unless the mask counts for it too."""
    with pytest.raises(AssertionError):
        check_padding(conformer("rotary", mask_convolution=False))
