"""Shape of the semantic encoder and of its pre-training. The defaults are the published size (199.5 M parameters)."""

import dataclasses
import math
from typing import Literal

from melody_jax.errors import UserError
from melody_jax.nn.conformer import ConformerConfig


def _check_kernel(stem: str, kernel: int, frames: int) -> None:
    if kernel < frames or (kernel - frames) % 2:
        raise UserError(f"{stem} stem: kernel {kernel} must exceed the {frames} frames of a token by an even number")


@dataclasses.dataclass(frozen=True)
class WaveStemConfig:
    """wav2vec 2.0's feature encoder: convolutions on the waveform (Baevski et al., 2020, section 2).

    wav2vec 2.0 has strides (5, 2, 2, 2, 2, 2, 2), that is 320 samples; these multiply to the 960 samples of a token.

    Attributes:
      channels: output channels of every convolution.
      kernels: taps of each.
      strides: hop of each; their product must be the geometry's token_samples.
      norm: "layer" after every convolution, or "group" (one channel per group, over time) after the first alone.
      use_bias: biases on the convolutions.
      activation: after every convolution: "gelu" (erf), "gelu_tanh", "relu" or "silu".
      fused_norm: with norm "layer", on TPUs, the kernel of `nn/kernels/layer_norm.py`; XLA's own operations elsewhere, or
        where False.
    """

    channels: int = 512
    kernels: tuple[int, ...] = (10, 8, 6, 3, 3, 2, 2)
    strides: tuple[int, ...] = (5, 4, 3, 2, 2, 2, 2)
    norm: Literal["layer", "group"] = "layer"
    use_bias: bool = True
    activation: str = "gelu"
    fused_norm: bool = True

    def __post_init__(self):
        if len(self.kernels) != len(self.strides):
            raise UserError(f"wave stem: {len(self.kernels)} kernels but {len(self.strides)} strides")
        if self.norm not in ("layer", "group"):
            raise UserError(f'wave stem: norm "{self.norm}" is neither "layer" nor "group"')

    @property
    def stride(self) -> int:
        """Samples per output frame."""
        return math.prod(self.strides)

    @property
    def receptive_field(self) -> int:
        """Samples that one output frame sees."""
        field, step = 1, 1
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            field, step = field + (kernel - 1) * step, step * stride
        return field


@dataclasses.dataclass(frozen=True)
class MelStemConfig:
    """A log-mel spectrogram at a multiple of the token rate and one strided convolution: cheap enough for a laptop.

    Attributes:
      channels: output channels.
      mels: M, mel bands.
      fft: samples of an analysis window.
      frames: spectral frames per token; must divide the geometry's token_samples.
      kernel: taps of the convolution, in spectral frames, at least `frames`.
      mean: of the log-mel values, taken away.
      std: of the log-mel values, divided by.
    """

    channels: int = 256
    mels: int = 128
    fft: int = 2048
    frames: int = 4
    kernel: int = 4
    mean: float = -5.0
    std: float = 3.0

    def __post_init__(self):
        _check_kernel("mel", self.kernel, self.frames)


@dataclasses.dataclass(frozen=True)
class SpectrumConfig:
    """The log-frequency spectrum (`dsp.log_frequency`): a constant-Q picture of which notes sound.

    One stem reads it, and the spectrum head reconstructs it.

    Attributes:
      channels: output channels of the stem's convolution.
      bands: F, of the spectrum.
      lowest_hz: centre of the first band; C2 by default.
      per_octave: bands to an octave.
      fft: samples of an analysis window.
      depth: nats below the frame's loudest band at which the spectrum ends.
      frames: spectral frames per token that the stem reads; must divide the geometry's token_samples.
      kernel: taps of the stem's convolution, in spectral frames, `frames` plus an even number.
    """

    channels: int = 256
    bands: int = 144
    lowest_hz: float = 65.406
    per_octave: int = 24
    fft: int = 4096
    depth: float = 6.0
    frames: int = 2
    kernel: int = 4

    def __post_init__(self):
        _check_kernel("spectrum", self.kernel, self.frames)


@dataclasses.dataclass(frozen=True)
class QuantizerConfig:
    """The Gumbel-softmax product quantiser that makes the targets (Baevski et al., 2020, section 2).

    Attributes:
      groups: G, codebooks whose entries are concatenated.
      entries: V, per codebook.
      width: of the concatenated entries; `groups` must divide it.
      temperature_start: of the Gumbel softmax at step 0.
      temperature_end: its lower limit.
      temperature_decay: factor per step.
    """

    groups: int = 2
    entries: int = 320
    width: int = 256
    temperature_start: float = 2.0
    temperature_end: float = 0.5
    temperature_decay: float = 0.999995

    def __post_init__(self):
        if self.groups < 1 or self.width % self.groups:
            raise UserError(f"quantizer: {self.groups} groups do not divide the width {self.width}")


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Masking and losses of the pre-training.

    Attributes:
      mask_probability: masked spans times their length over the frames; overlaps make the masked share smaller.
      mask_length: frames of a span.
      negatives: K, distractors per masked frame, from masked frames of the same clip.
      cross_negatives: further distractors, from masked frames of the whole global batch and shared by it. Distractors
        from one clip share its instruments and need no timbre to be told apart; these do.
      kappa: temperature of the cosine similarities.
      diversity: weight of the diversity loss.
      contrastive: weight of the contrastive loss; 1 is the publication.
      spectrum: weight of the second loss, the mean squared error of the log-frequency spectrum that a linear head
        reconstructs from the last block, of hidden frames and others alike (MERT, Li et al., 2023, section 3.2). 0 is the
        publication: there is no such head.
      quantizer_gradient: factor on the gradient from the quantiser into the stem (fairseq's feature_grad_mult is for
        both branches); 0 leaves the stem to the contrastive branch.
      batch_momentum: of batch norm's running statistics.
    """

    mask_probability: float = 0.65
    mask_length: int = 10
    negatives: int = 100
    cross_negatives: int = 0
    kappa: float = 0.1
    diversity: float = 0.1
    contrastive: float = 1.0
    spectrum: float = 0.0
    quantizer_gradient: float = 1.0
    batch_momentum: float = 0.9

    def __post_init__(self):
        if not 0 < self.mask_probability <= 1 or self.mask_length < 1:
            raise UserError("pre-training: mask_probability must be in (0, 1] and mask_length at least 1")


@dataclasses.dataclass(frozen=True)
class SemanticConfig:
    """wav2vec2-Conformer at 25 Hz. MeLoDy gives the total, 199.5 M parameters, and neither depth nor width.

    The choice here: 14 Conformer blocks of width 768 (12 heads of 64, feed-forward 3,072, rotary positions, kernel 31)
    on wav2vec 2.0's stem of 512 channels with 960 samples a frame, and its quantiser of 2 x 320 entries: 197.9 M
    (-0.8 %). 576 x 24 with relative positions would come to 199.1 M; 768 divides by TPU tiles of 128.

    Attributes:
      stem: "wave" (convolutions on the waveform), "mel" (log-mel spectrogram) or "spectrum" (log-frequency spectrum).
      wave: shape of the wave stem.
      mel: shape of the mel stem.
      spectrum: shape of the spectrum stem, and of the spectrum that the second head reconstructs.
      width: H, of the Conformer.
      conformer: the stack.
      features: what k-means clusters: "layer" (the publication), the output of a block; "spectrum", what the spectrum head
        reconstructs: distances are then differences of notes and timbre, and nothing else.
      feature_layer: the block (counted from 1) whose output is the feature, for "layer".
      feature_norm: "none"; "layer" (each frame to mean 0, variance 1); "standard" (each channel, by mean and deviation
        measured after training); "whiten" (principal axes, measured after training, to unit variance).
      feature_rank: principal axes kept by "whiten"; 0 keeps all. Features have that width.
      quantizer: the quantiser of the targets.
      projection: width in which predictions and targets are compared.
      pretrain: masking and losses.
      norm_eps: epsilon of the norms outside the Conformer.
      dtype: of computation outside the Conformer.
      param_dtype: of parameters.
    """

    stem: Literal["wave", "mel", "spectrum"] = "wave"
    wave: WaveStemConfig = WaveStemConfig()
    mel: MelStemConfig = MelStemConfig()
    spectrum: SpectrumConfig = SpectrumConfig()
    width: int = 768
    conformer: ConformerConfig = ConformerConfig()
    features: Literal["layer", "spectrum"] = "layer"
    feature_layer: int = 7
    feature_norm: Literal["none", "layer", "standard", "whiten"] = "standard"
    feature_rank: int = 0
    quantizer: QuantizerConfig = QuantizerConfig()
    projection: int = 256
    pretrain: PretrainConfig = PretrainConfig()
    norm_eps: float = 1e-5
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if self.stem not in ("wave", "mel", "spectrum"):
            raise UserError(f"semantic: stem {self.stem!r} is none of wave, mel, spectrum")
        if self.features not in ("layer", "spectrum"):
            raise UserError(f"semantic: features {self.features!r} is neither layer nor spectrum")
        if self.features == "spectrum" and not (self.pretrain.spectrum and self.feature_norm == "none"):
            raise UserError('semantic: features "spectrum" need pretrain.spectrum above 0 and feature_norm "none"')
        if self.feature_norm not in ("none", "layer", "standard", "whiten"):
            raise UserError(f"semantic: feature_norm {self.feature_norm!r} is none of none, layer, standard, whiten")
        if not 1 <= self.feature_layer <= self.conformer.layers:
            raise UserError(
                f"semantic: feature_layer {self.feature_layer} is not one of {self.conformer.layers} layers"
            )
        if self.conformer.heads < 1 or self.width % self.conformer.heads:
            raise UserError(f"semantic: {self.conformer.heads} heads do not divide the width {self.width}")

    @property
    def feature_width(self) -> int:
        """Width of a feature vector."""
        if self.features == "spectrum":
            return self.spectrum.bands
        return self.feature_rank if self.feature_norm == "whiten" and self.feature_rank else self.width
