"""Shapes of MuLan's two towers and of their joint space. The defaults are the published size (195.3 M parameters)."""

import dataclasses

from melody_jax.errors import UserError
from melody_jax.nn.feedforward import ACTIVATIONS


@dataclasses.dataclass(frozen=True)
class MusicTowerConfig:
    """Audio Spectrogram Transformer (Gong et al., "AST", 2021): patches of a log-mel spectrogram into a ViT.

    Attributes:
      mels: M, mel bands.
      fft: samples of an analysis window; 1024 at 24 kHz is 43 ms.
      hop: samples between spectral frames; 240 at 24 kHz is AST's 10 ms.
      mean: mean of the log-mel values that the normalisation (x - mean) / (2 std) of AST takes away.
      std: their standard deviation.
      patch_frequency: mel bands of a patch.
      patch_time: spectral frames of a patch.
      stride_frequency: mel bands from one patch to the next.
      stride_time: spectral frames from one patch to the next.
      width: H.
      layers: pre-norm transformer layers.
      heads: attention heads; must divide `width`.
      mlp: hidden width of the feed-forward.
      activation: in it, "gelu" (erf, as published), "gelu_tanh", "relu" or "silu".
      norm_eps: epsilon of every LayerNorm.
      dropout: rate inside training, after attention and feed-forward (AST: 0).
      unroll: layers per iteration of the scan over them (all of them run fastest on a CPU, 1 compiles fastest).
    """

    mels: int = 128
    fft: int = 1024
    hop: int = 240
    mean: float = -5.0
    std: float = 3.0
    patch_frequency: int = 16
    patch_time: int = 16
    stride_frequency: int = 10
    stride_time: int = 10
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp: int = 3072
    activation: str = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.0
    unroll: int = 1

    def __post_init__(self):
        if self.heads < 1 or self.width % self.heads:
            raise UserError(f"music tower: {self.heads} heads do not divide the width {self.width}")
        _check_activation("music tower", self.activation)
        if self.patch_frequency > self.mels:
            raise UserError(
                f"music tower: a patch of {self.patch_frequency} bands is higher than {self.mels} mel bands"
            )

    def grid(self, frames: int) -> tuple[int, int]:
        """(patches along frequency, patches along time) of a spectrogram of `frames` frames; zero when too short."""
        high = (self.mels - self.patch_frequency) // self.stride_frequency + 1
        return high, max(0, (frames - self.patch_time) // self.stride_time + 1)


@dataclasses.dataclass(frozen=True)
class TextTowerConfig:
    """BERT (Devlin et al., 2019) without its pooler.

    Attributes:
      vocabulary: V, WordPiece entries; id 0 is padding.
      positions: longest text in tokens.
      types: token types; only type 0 is used.
      width: H.
      layers: post-norm transformer layers.
      heads: attention heads; must divide `width`.
      mlp: hidden width of the feed-forward.
      activation: in it, "gelu" (erf, as published), "gelu_tanh", "relu" or "silu".
      norm_eps: epsilon of every LayerNorm.
      unroll: layers per iteration of the scan over them (all of them run fastest on a CPU, 1 compiles fastest).
      pooling: "cls" (state of the first token, MuLan) or "mean" (over all tokens but padding, MiniLM).
    """

    vocabulary: int = 30_522
    positions: int = 512
    types: int = 2
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp: int = 3072
    activation: str = "gelu"
    norm_eps: float = 1e-12
    unroll: int = 1
    pooling: str = "cls"

    def __post_init__(self):
        if self.heads < 1 or self.width % self.heads:
            raise UserError(f"text tower: {self.heads} heads do not divide the width {self.width}")
        _check_activation("text tower", self.activation)
        if self.pooling not in ("cls", "mean"):
            raise UserError(f'text tower: pooling "{self.pooling}" is neither "cls" nor "mean"')


def _check_activation(tower: str, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise UserError(f"{tower}: activation {activation!r} is none of {', '.join(ACTIVATIONS)}")


@dataclasses.dataclass(frozen=True)
class PretrainedText:
    """Where the text tower's weights come from, so that a bundle can refer to them instead of carrying them.

    Attributes:
      package: an installed Python package that carries a BERT as safetensors; "" starts from random weights.
      version: the version it must have; "" accepts any.
      sha256: hash of the weights file it must have; "" accepts any.
    """

    package: str = ""
    version: str = ""
    sha256: str = ""


@dataclasses.dataclass(frozen=True)
class MuLanConfig:
    """MuLan (Huang et al., 2022) as in MeLoDy: AST-base and BERT-base, joint space of 128 dimensions.

    The towers have 86.2 M and 108.9 M parameters and the two linear projections 0.2 M: 195.3 M, the published figure.

    Attributes:
      music: the music tower.
      text: the text tower.
      pretrained_text: weights that the text tower starts from.
      train_text_tower: False leaves the text tower as it came; then it must be a pretrained one, and it is not part of
        the model's own parameters.
      text_length: W, WordPiece tokens of a caption or prompt, first and last token included; what is longer is cut.
      joint: E, width of the joint space.
      music_hidden: widths of hidden layers between the music tower and the joint space; () is a linear projection.
      text_hidden: the same for the text tower.
      projection_dropout: rate on the inputs of both projections' layers, in training only.
      center: whether the mean embedding of each modality, measured after training, is taken away from its embeddings.
        The means of the two modalities lie far apart (Liang et al., "Mind the Gap", 2022), and at sampling the text
        takes the place of the music.
      temperature: initial temperature of the contrastive loss, learned from there.
      remat: "none", "full" or "dots": what the backward pass computes again instead of storing.
      fused_attention: on TPUs, the kernel of `nn/kernels/attention.py`; XLA's own operations elsewhere, or where False.
      dtype: of computation.
      param_dtype: of parameters.
    """

    music: MusicTowerConfig = MusicTowerConfig()
    text: TextTowerConfig = TextTowerConfig()
    pretrained_text: PretrainedText = PretrainedText()
    train_text_tower: bool = True
    text_length: int = 64
    joint: int = 128
    music_hidden: tuple[int, ...] = ()
    text_hidden: tuple[int, ...] = ()
    projection_dropout: float = 0.0
    center: bool = False
    temperature: float = 0.07
    remat: str = "none"
    fused_attention: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if self.text_length > self.text.positions:
            raise UserError(
                f"mulan: text_length {self.text_length} is more than the text tower's {self.text.positions} positions"
            )
        if not self.train_text_tower and not self.pretrained_text.package:
            raise UserError(
                "mulan: a text tower that is not trained must be a pretrained one (pretrained_text.package)"
            )
