"""Linear maps: products in the compute dtype, accumulated in float32, forwards and backwards.

TPUs multiply bfloat16 and accumulate float32 natively. XLA on a CPU with AMX does so too, but only when the product asks
for a float32 result and the left operand lies row by row in memory; otherwise it is four times slower. The gradient that
JAX derives for a product with `preferred_element_type` mixes dtypes, so the gradients are written out here.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint

from melody_jax.nn.remat import KEPT
from melody_jax.parallel import activations
from melody_jax.parallel.activations import constrain
from melody_jax.shapes import Array, Float, Int


@jax.jit  # a layout constraint wants a trace, also when the caller runs op by op
def _transpose(x: Array) -> Array:
    """x [rows, I] -> [I, rows]; bfloat16 on CPU is really moved in memory: XLA would fold it into a slow column-major operand.

    Not so with several devices: the partitioner would gather x to honour the layout.
    """
    if x.dtype != jnp.bfloat16 or jax.device_count() > 1:
        return x.T
    return jax.lax.platform_dependent(
        x, cpu=lambda a: with_layout_constraint(a.T, Layout(major_to_minor=(0, 1))), default=lambda a: a.T
    )


@jax.custom_vjp
def matmul(x: Array, w: Array) -> Array:
    """x [..., I] times w [I, O] in x's dtype with float32 accumulation; `w` may be of any float dtype. Returns x's dtype."""
    return _matmul_forward(x, w)[0]


def _matmul_forward(x, w):
    rows = _rows(x)
    y = jax.lax.dot_general(
        rows, w.astype(x.dtype), (((rows.ndim - 1,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
    return y.astype(x.dtype).reshape(*x.shape[:-1], w.shape[-1]), (x, w)


def _matmul_backward(residuals, g):
    x, w = residuals
    rows_x, rows_g = _rows(x), _rows(g.astype(x.dtype))
    last, before = rows_x.ndim - 1, tuple(range(rows_x.ndim - 1))
    wide = {"preferred_element_type": jnp.float32}
    dx = jax.lax.dot_general(rows_g, w.astype(x.dtype), (((last,), (1,)), ((), ())), **wide).astype(x.dtype)
    if last == 1:
        rows_x, before = _transpose(rows_x), (1,)
    dw = jax.lax.dot_general(
        rows_x, rows_g, ((before, tuple(range(last))), ((), ())), preferred_element_type=gradient_dtype(x)
    )
    return dx.reshape(x.shape), dw.astype(w.dtype)


def gradient_dtype(x: Array) -> jnp.dtype:
    """In which a product gives the gradient of its weights, each chip's share accumulated in float32: the dtype in which
    chips add their shares. On TPUs that of the product, bfloat16 mostly, half the bytes of float32 (docs/scaling.md)."""
    return x.dtype if activations.on_tpu() else jnp.dtype(jnp.float32)


def _rows(x: Array) -> Array:
    """x [..., I] as [rows, I] for CPUs; TPUs multiply it as it is: their tiles are rows of 8, which few lengths fill."""
    return x if activations.on_tpu() else x.reshape(-1, x.shape[-1])


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def batched_matmul(a: Array, b: Array) -> Array:
    """a [..., I, J] times b [..., J, O] (equal leading axes) in their dtype, accumulated in float32. Returns a's dtype."""
    return jnp.matmul(a, b, preferred_element_type=jnp.float32).astype(a.dtype)


def _batched_forward(a, b):
    return batched_matmul(a, b), (a, b)


def _batched_backward(residuals, g):
    a, b = residuals
    g = g.astype(a.dtype)
    da = jnp.matmul(g, b.swapaxes(-1, -2), preferred_element_type=jnp.float32).astype(a.dtype)
    db = jnp.matmul(a.swapaxes(-1, -2), g, preferred_element_type=jnp.float32).astype(b.dtype)
    return da, db


batched_matmul.defvjp(_batched_forward, _batched_backward)


@jax.custom_vjp
def add_bias(y: Array, bias: Array) -> Array:
    """y [..., O] + bias [O] in y's dtype; the bias's gradient is summed in float32."""
    return y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def _add_bias_backward(bias, g):
    rows = tuple(range(g.ndim - 1))
    if activations.on_tpu() and g.dtype == jnp.bfloat16:
        # A product with ones takes next to no time; the sum as XLA makes it keeps the vector unit busy (docs/scaling.md).
        # Not with one row of ones: XLA would make it a sum again.
        ones = jnp.ones((*g.shape[:-1], 8), g.dtype)
        wide = {"preferred_element_type": gradient_dtype(g)}
        return g, jax.lax.dot_general(ones, g, ((rows, rows), ((), ())), **wide)[0].astype(bias.dtype)
    return g, jnp.sum(g, rows, jnp.float32).astype(bias.dtype)


add_bias.defvjp(lambda y, bias: (add_bias(y, bias), bias), _add_bias_backward)


class Dense(nn.Module):
    """y = x W + b on the last axis.

    Attributes:
      features: output width.
      axes: logical axis names of W [in, out].
      use_bias: whether to add b.
      dtype: compute and result dtype.
      param_dtype: dtype of the parameters.
      kernel_init: initialiser of W.
      bias_init: initialiser of b.
    """

    features: int
    axes: tuple[str, str] = ("embed", "mlp")
    use_bias: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        y, bias = self.product_and_bias(x)
        if bias is not None:
            y = checkpoint_name(add_bias(y, bias), KEPT)
        return constrain(y, self.axes[1])

    @nn.compact
    def product_and_bias(self, x: Float[Array, "... I"]) -> tuple[Float[Array, "... O"], Float[Array, " O"] | None]:
        """x W and b, for a kernel that adds them; x W has no place on the mesh yet."""
        shape = (x.shape[-1], self.features)
        init = nn.with_logical_partitioning(self.kernel_init, self.axes)
        kernel = self.param("kernel", init, shape, jnp.dtype(self.param_dtype))
        y = matmul(x.astype(self.dtype), kernel)
        if self.use_bias:
            bias_init = nn.with_logical_partitioning(self.bias_init, self.axes[1:])
            return y, self.param("bias", bias_init, (self.features,), jnp.dtype(self.param_dtype))
        return y, None


class Embed(nn.Module):
    """A table of `size` vectors.

    Attributes:
      size: number of rows.
      features: width of a row.
      axes: logical axis names of the table [size, features].
      dtype: result dtype.
      param_dtype: dtype of the table.
      embedding_init: initialiser of the table.
    """

    size: int
    features: int
    axes: tuple[str, str] = ("vocab", "embed")
    dtype: str = "float32"
    param_dtype: str = "float32"
    embedding_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    def setup(self):
        init = nn.with_logical_partitioning(self.embedding_init, self.axes)
        self.embedding = self.param("embedding", init, (self.size, self.features), jnp.dtype(self.param_dtype))

    def __call__(self, ids: Int[Array, "..."]) -> Float[Array, "... H"]:
        return constrain(jnp.take(self.embedding, ids, axis=0).astype(self.dtype), self.axes[1])

    def attend(self, x: Float[Array, "... H"]) -> Float[Array, "... V"]:
        """Inner products with every row: the logits of a tied output layer."""
        return constrain(matmul(x.astype(self.dtype), self.embedding.T), self.axes[0])
