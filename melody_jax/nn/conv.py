"""One-dimensional convolutions over [B, time, channels].

Frame-rate networks on a CPU live from two facts (measured, see docs): a depthwise convolution is fastest as K shifted
multiplies, and a dense convolution as one product of unfolded frames. On TPUs too, but for those that
`_direct_is_faster` names.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from melody_jax.nn.dense import add_bias, gradient_dtype, matmul
from melody_jax.nn.remat import KEPT
from melody_jax.parallel import activations
from melody_jax.parallel.activations import constrain
from melody_jax.shapes import Array, Float

LANES, SUBLANES = 128, 8  # of a TPU's register
Padding = str | int | tuple[int, int]


def _pads(padding: Padding, kernel: int, stride: int, dilation: int, width: int) -> tuple[int, int]:
    if isinstance(padding, tuple):
        return padding
    if isinstance(padding, int):
        return padding, padding
    if padding == "VALID":
        return 0, 0
    if padding == "SAME":
        total = max((-(-width // stride) - 1) * stride + (kernel - 1) * dilation + 1 - width, 0)
        return total // 2, total - total // 2
    raise ValueError(f"padding {padding!r}: want SAME, VALID, an int or a pair")


class Conv1d(nn.Module):
    """Convolution along time (cross-correlation, as in every framework).

    Attributes:
      features: output channels.
      kernel: taps.
      stride: output hop.
      dilation: distance of the taps.
      groups: channel groups.
      padding: "SAME", "VALID", an int for both sides or a (left, right) pair.
      use_bias: whether to add a bias.
      dtype: compute dtype.
      param_dtype: dtype of the parameters.
      kernel_init: initialiser of the kernel [kernel, in / groups, out].
    """

    features: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "B T I"]) -> Float[Array, "B out O"]:
        init = nn.with_logical_partitioning(self.kernel_init, ("time", "conv_in", "conv_out"))
        shape = (self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", init, shape, jnp.dtype(self.param_dtype))
        pads = _pads(self.padding, self.kernel, self.stride, self.dilation, x.shape[1])
        x = x.astype(self.dtype)
        if self.groups == 1 and _direct_is_faster(x, self.kernel, self.stride, self.dilation):
            y = _strided(x, kernel, self.stride, self.dilation, pads)
        elif self.groups == 1:
            y = _unfolded(x, kernel, self.stride, self.dilation, pads)
        else:
            y = jax.lax.conv_general_dilated(
                x, kernel.astype(x.dtype), (self.stride,), [pads], rhs_dilation=(self.dilation,),
                dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=self.groups,
            )  # fmt: skip
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("conv_out",))
            y = add_bias(y, self.param("bias", zeros, (self.features,), jnp.dtype(self.param_dtype)))
        return constrain(y, "conv_out")


def _unfolded(x: Array, kernel: Array, stride: int, dilation: int, pads: tuple[int, int]) -> Array:
    """Dense convolution as one product: [B, U, kernel * I] times [kernel * I, O]."""
    taps, inputs, outputs = kernel.shape
    columns = _seen(x, taps, stride, dilation, pads)
    unfolded = jnp.concatenate(columns, axis=-1) if taps > 1 else columns[0]
    return matmul(unfolded, kernel.reshape(taps * inputs, outputs))


def _seen(x: Array, taps: int, stride: int, dilation: int, pads: tuple[int, int]) -> list[Array]:
    """What each tap sees of x [B, T, I]: [B, U, I]."""
    x = jnp.pad(x, ((0, 0), pads, (0, 0)))
    width = (x.shape[1] - (taps - 1) * dilation - 1) // stride + 1
    last = (width - 1) * stride + 1
    return [x[:, i * dilation : i * dilation + last : stride] for i in range(taps)]


def _direct_is_faster(x: Array, taps: int, stride: int, dilation: int) -> bool:
    """Whether a convolution is one: on TPUs, unless all taps' channels together do not fill lanes. With eight rows for each
    chip it is two to three times as fast as the product. Fewer XLA cuts into more rows first, which only pays where channels
    do not fill lanes, at a stride of 1 (docs/scaling.md)."""
    inputs, rows = x.shape[-1], activations.share(x.shape[0], "batch")
    fills = taps > 1 and taps * inputs > LANES and (stride == 1 or dilation == 1)
    return activations.on_tpu() and fills and (rows >= SUBLANES or stride == 1 and inputs % LANES > 0)


def _strided(x: Array, kernel: Array, stride: int, dilation: int, pads: tuple[int, int]) -> Array:
    """Dense convolution, not unfolded. At a stride s, of a dilation of 1, it is one of stride 1 over [B, T / s, s, I]: the
    gradient of a strided one multiplies the zeros between the frames."""
    if stride == 1:
        return _direct(x, kernel, dilation, (pads,))
    batch, time, inputs = x.shape
    taps, _, outputs = kernel.shape
    width, blocks = (time + sum(pads) - taps) // stride + 1, -(-taps // stride)
    length = (width - 1 + blocks) * stride
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (pads[0], length - time - pads[0], 0), (0, 0, 0)))
    kernel = jnp.pad(kernel, ((0, blocks * stride - taps), (0, 0), (0, 0)))
    x, kernel = x.reshape(batch, -1, stride, inputs), kernel.reshape(blocks, stride, inputs, outputs)
    return _direct(x, kernel, 1, ((0, 0), (0, 0)))[:, :, 0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _direct(x: Array, kernel: Array, dilation: int, pads: tuple[tuple[int, int], ...]) -> Array:
    """Dense convolution of stride 1 along the middle axes of x [B, ..., I], not unfolded. Returns x's dtype."""
    return _convolve(x, kernel.astype(x.dtype), dilation, pads)


def _direct_forward(x, kernel, dilation, pads):
    return _direct(x, kernel, dilation, pads), (x, kernel)


def _direct_backward(dilation, pads, residuals, g):
    x, kernel = residuals
    g, along = g.astype(x.dtype), tuple(range(len(pads)))
    reach = [dilation * (taps - 1) for taps in kernel.shape[:-2]]
    around = tuple((far - before, far - after) for far, (before, after) in zip(reach, pads, strict=True))
    dx = _convolve(g, jnp.flip(kernel.astype(x.dtype), along).swapaxes(-2, -1), dilation, around)
    # rows take the place of channels, and channels of rows
    middle = [1 + axis for axis in along]
    turned = jax.lax.ConvDimensionNumbers(
        lhs_spec=(x.ndim - 1, 0, *middle), rhs_spec=(x.ndim - 1, 0, *middle), out_spec=(x.ndim - 2, x.ndim - 1, *along)
    )
    dw = jax.lax.conv_general_dilated(
        x, g, (dilation,) * len(pads), pads, dimension_numbers=turned, preferred_element_type=gradient_dtype(x)
    )
    return dx, dw.astype(kernel.dtype)


_direct.defvjp(_direct_forward, _direct_backward)


def _convolve(x: Array, kernel: Array, dilation: int, pads: tuple[tuple[int, int], ...]) -> Array:
    numbers = ("NWC", "WIO", "NWC") if len(pads) == 1 else ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1,) * len(pads), pads, rhs_dilation=(dilation,) * len(pads), dimension_numbers=numbers,
        preferred_element_type=jnp.float32,
    ).astype(x.dtype)  # fmt: skip


class DepthwiseConv1d(nn.Module):
    """One filter per channel, "SAME" padding, as `kernel` shifted multiplies."""

    kernel: int
    dilation: int = 1
    use_bias: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B T I"]) -> Float[Array, "B T I"]:
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=0, out_axis=1)
        init = nn.with_logical_partitioning(init, ("time", "conv_out"))
        kernel = self.param("kernel", init, (self.kernel, x.shape[-1]), jnp.dtype(self.param_dtype))
        pads = _pads("SAME", self.kernel, 1, self.dilation, x.shape[1])
        y = checkpoint_name(_depthwise(x.astype(self.dtype), kernel.astype(self.dtype), self.dilation, pads), KEPT)
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("conv_out",))
            y = add_bias(y, self.param("bias", zeros, (x.shape[-1],), jnp.dtype(self.param_dtype)))
        return constrain(y, "conv_out")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x: Array, kernel: Array, dilation: int, pads: tuple[int, int]) -> Array:
    """x [B, T, I] and kernel [K, I] to [B, T, I]. Its gradient is written out: JAX's own adds up K padded arrays."""
    seen = _seen(x, len(kernel), 1, dilation, pads)
    return functools.reduce(jnp.add, [frames * kernel[i][None, None] for i, frames in enumerate(seen)])


def _depthwise_backward(dilation, pads, residuals, g):
    x, kernel = residuals
    seen = _seen(x, len(kernel), 1, dilation, pads)
    dkernel = jnp.stack([jnp.sum((frames * g).astype(jnp.float32), (0, 1)) for frames in seen])
    return _depthwise(g, kernel[::-1], dilation, pads[::-1]), dkernel.astype(kernel.dtype)


_depthwise.defvjp(lambda x, kernel, *how: (_depthwise(x, kernel, *how), (x, kernel)), _depthwise_backward)


class ConvTranspose1d(nn.Module):
    """Upsampling by `stride`: T frames in, T * stride out.

    PyTorch's ConvTranspose1d with padding (kernel - stride) / 2, rounded up, and output_padding 1 where that was odd.

    Raises:
      ValueError: the kernel is smaller than the stride.
    """

    features: int
    kernel: int
    stride: int
    use_bias: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "B T I"]) -> Float[Array, "B out O"]:
        last = (self.kernel - self.stride) // 2  # samples cut off behind; before them one more where that is odd
        first = self.kernel - self.stride - last
        if last < 0:
            raise ValueError(f"ConvTranspose1d: kernel {self.kernel} is smaller than stride {self.stride}")
        init = nn.with_logical_partitioning(self.kernel_init, ("time", "conv_in", "conv_out"))
        kernel = self.param("kernel", init, (self.kernel, x.shape[-1], self.features), jnp.dtype(self.param_dtype))
        pads = (self.kernel - 1 - first, self.kernel - 1 - last)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype), kernel.astype(self.dtype)[::-1], (1,), [pads], lhs_dilation=(self.stride,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )  # fmt: skip
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("conv_out",))
            y = add_bias(y, self.param("bias", zeros, (self.features,), jnp.dtype(self.param_dtype)))
        return constrain(y, "conv_out")
