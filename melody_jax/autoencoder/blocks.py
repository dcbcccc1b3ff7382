"""Residual blocks shared by the encoders and decoders."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from melody_jax.nn.conv import Conv1d, DepthwiseConv1d
from melody_jax.nn.dense import Dense
from melody_jax.nn.norm import LayerNorm
from melody_jax.shapes import Array, Float


class _Block(nn.Module):
    """ConvNeXt block (Liu et al., 2022) whose residual stream and depthwise convolution stay float32.

    Only the two products run in `dtype`: they are where the time goes, while the gradient of a depthwise convolution in
    bfloat16 is ten times slower than in float32 on a CPU and no faster on an accelerator (it is bound by memory).
    """

    hidden: int
    kernel: int
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x, _):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = DepthwiseConv1d(self.kernel, param_dtype=self.param_dtype, name="depthwise")(x)
        y = LayerNorm(eps=1e-6, param_dtype=self.param_dtype, name="norm")(y)
        y = Dense(self.hidden, ("embed", "mlp"), name="in", **types)(y)
        y = Dense(x.shape[-1], ("mlp", "embed"), name="out", **types)(jax.nn.gelu(y, approximate=True))
        init = nn.with_logical_partitioning(nn.initializers.constant(0.1), ("norm",))
        scale = self.param("scale", init, (x.shape[-1],), jnp.dtype(self.param_dtype))
        return x + y.astype(x.dtype) * scale.astype(x.dtype)[None, None], None


class ConvNeXtStack(nn.Module):
    """`layers` ConvNeXt blocks of equal width under one scan. Computes and returns float32.

    Attributes:
      layers: number of blocks.
      hidden: inner width of a block.
      kernel: taps of its depthwise convolution.
      unroll: blocks per iteration of the scan; all of them is half again as fast on a CPU, 1 compiles fastest.
      remat: recompute the blocks in the backward pass ("full") or not ("none").
      dtype: dtype of the products.
      param_dtype: dtype of the parameters.
    """

    layers: int
    hidden: int
    kernel: int = 7
    unroll: int = 1
    remat: str = "none"
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B L H"]) -> Float[Array, "B L H"]:
        scanned = nn.scan(
            nn.remat(_Block, prevent_cse=False) if self.remat == "full" else _Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
            unroll=self.unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        body = scanned(self.hidden, self.kernel, self.dtype, self.param_dtype, name="layers")
        return body(x.astype(jnp.float32), None)[0]


class ResidualBlock(nn.Module):
    """HiFi-GAN's residual block (Kong et al., 2020, type 1): for each dilation two convolutions and a skip.

    Attributes:
      kernel: taps of every convolution.
      dilations: of the first convolution of each pair; the second is dense.
      slope: of the leaky ReLUs.
      dtype: compute dtype.
      param_dtype: dtype of the parameters.
    """

    kernel: int
    dilations: tuple[int, ...]
    slope: float = 0.1
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B T H"]) -> Float[Array, "B T H"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i, dilation in enumerate(self.dilations):
            y = Conv1d(x.shape[-1], self.kernel, dilation=dilation, name=f"dilated_{i}", **types)(
                jax.nn.leaky_relu(x, self.slope)
            )
            x = x + Conv1d(x.shape[-1], self.kernel, name=f"dense_{i}", **types)(jax.nn.leaky_relu(y, self.slope))
        return x


class MultiReceptiveField(nn.Module):
    """The mean of parallel residual blocks with different kernels (HiFi-GAN, section 2.2).

    Attributes:
      kernels: one residual block for each.
      dilations: of every block.
      slope: of the leaky ReLUs.
      remat: recompute the blocks in the backward pass ("full") or not ("none").
      dtype: compute dtype.
      param_dtype: dtype of the parameters.
    """

    kernels: tuple[int, ...]
    dilations: tuple[int, ...]
    slope: float = 0.1
    remat: str = "none"
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B T H"]) -> Float[Array, "B T H"]:
        block = nn.remat(ResidualBlock) if self.remat == "full" else ResidualBlock
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        branches = [
            block(kernel, self.dilations, self.slope, name=f"branch_{i}", **types)(x)
            for i, kernel in enumerate(self.kernels)
        ]
        return sum(branches[1:], branches[0]) / len(branches)
