"""Shape of the semantic language model. The defaults are the published size."""

import dataclasses

from melody_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LMConfig:
    """A LLaMA (Touvron et al., 2023) over MuLan and semantic tokens.

    The publication gives 24 layers, width 1024, 16 heads and 429.5 M parameters, not the SwiGLU width: 4096 gives
    430.0 M (+0.1 %) with an untied head over the vocabulary of 12 * 1024 + 1024 tokens and the specials.

    Attributes:
      layers: transformer blocks.
      width: H, width of the residual stream.
      heads: attention heads; must divide `width`.
      hidden: inner width of the SwiGLU feed-forward.
      window: moments with semantic tokens in one sequence; 0 for a whole clip, as published. Of clips that are longer,
        training draws a window each step and sampling goes from window to window: steps are cheaper, and more of what is
        predicted depends on the MuLan tokens instead of a long history.
      controls: tempo, key, metre, drums and instruments stand as tokens between the MuLan and the semantic ones, as far
        as they are known (codes/controls.py). The publication has none.
      condition_everywhere: the sum of the condition's embeddings goes, through a linear map that begins at zero, into every
        semantic position too. The publication's model meets the condition by attention alone; a small model that is
        trained shortly learns to look there late.
      beats: where in its beat and in its bar the next moment stands goes, through a linear map that begins at zero, into
        every semantic position (`lm/beats.py`), as far as tempo, metre and phase are among the controls. As the beats of
        MusiConGen (Lan et al., 2024) do, this keeps a tempo and a metre without a memory of the bars before.
      rope: base of the rotary positions.
      norm_eps: epsilon of RMSNorm.
      tie_embeddings: the output layer is the embedding table.
      dropout: rate on the embeddings and on both branches of a block, in training.
      remat: "none", "full" or "dots" (keep the products with weights): what the backward pass computes again.
      fused_attention: on TPUs, the kernel of `nn/kernels/attention.py`; XLA's own operations elsewhere, or where False.
      unroll: layers per iteration of the scan over them (all of them run fastest on a CPU, 1 compiles fastest).
      dtype: compute dtype.
      param_dtype: dtype of the parameters.
    """

    layers: int = 24
    width: int = 1024
    heads: int = 16
    hidden: int = 4096
    window: int = 0
    controls: bool = False
    condition_everywhere: bool = False
    beats: bool = False
    rope: float = 10_000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = False
    dropout: float = 0.0
    remat: str = "none"
    fused_attention: bool = True
    unroll: int = 1
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if self.heads < 1 or self.width % (2 * self.heads):
            raise UserError(f"lm: width {self.width} is not an even multiple of {self.heads} heads")
        if self.window < 0 or self.window == 1:
            raise UserError(f"lm: a window of {self.window} tokens; it is 0 or at least 2")
        if self.beats and not self.controls:
            raise UserError("lm: beats are read from the controls: set controls = True too")
        if self.remat not in ("none", "full", "dots"):
            raise UserError(f'lm: remat "{self.remat}" is none of "none", "full", "dots"')
