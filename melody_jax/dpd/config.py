"""The shape and the training constants of the dual-path diffusion model."""

import dataclasses

from melody_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class DPDConfig:
    """Dual-path diffusion; the defaults are the published size (296.6 M parameters, within 2 %).

    Published: width 768, N = 8 blocks, K = 64, 256-wide angle vectors, a two-layer bidirectional SRU, M = 4 chunks,
    condition dropped with probability 0.1. The publication leaves the rest free; chosen to reach its count (297.1 M):
    two RoFormer layers of 12 heads in each coarse path with feed-forward width 3328 (13/3 of the width, a multiple of
    128), SRU width 768 in each direction, FiLM from MLPs as wide as the model.

    Attributes:
      width: H, the hidden width.
      blocks: N, the dual-path blocks.
      segment: K, frames per segment, even; about sqrt(2 L) balances the two paths.
      precondition: "none", the paper's, or "linear": the network adds to the best linear predictor of a frame given its
        noisy self and the tokens (`dpd/precondition.py`), measured on training clips before the first step.
      heads: attention heads; `width` is a multiple of it.
      coarse_layers: RoFormer layers in the coarse path of a block.
      hidden: inner width of the RoFormer's feed-forward.
      recurrent_width: SRU width of each direction.
      recurrent_layers: SRU layers in the fine path of a block.
      recurrence: how the SRU's linear recurrence runs: "associative" (parallel in K, for accelerators), "sequential"
        (less work, faster on few CPU cores) or "fused" (a kernel for TPUs, with the gates, that reads and writes memory
        once, where `recurrent_width` is a multiple of 128; elsewhere "associative"); the results are the same.
      film: what E_delta "at a segment" modulates the fine path: "frame", the segment's K frames of it (our reading), or
        "segment", their mean, one vector per segment (K times less work; the exact angle of a frame still enters with
        the input embedding).
      angle_width: width of e_start and e_end.
      rope: base of the rotary positions.
      nearness: what the logit of a column's own token in the cross-attention starts at; it falls with the distance from
        there (RoFormer's biases on queries and keys, started so). 0 starts with all tokens alike.
      prompt: what the language model starts from, MuLan codes and controls, goes into E_ST of every moment through an
        embedding that begins at zero, as in MusicLM's acoustic stage (Agostinelli et al., 2023). The publication's network
        knows the semantic tokens alone; from a short window of them the instruments cannot always be told.
      chunks: M, chunks of a clip with their own angle in training.
      condition_dropout: probability that a clip's semantic tokens are dropped in training.
      data_std: the diffusion runs on z = latents / data_std, so that signal and noise are balanced at delta = pi/4.
        1.0, the paper's, takes latents as they are. Latents in [-1, 1] with few clipped have a deviation of about 0.3:
        then most angles of the unscaled process are nearly pure noise, and with 0.3 they are not.
      remat: what the backward pass recomputes: "none", "dots" (all but products with weights) or "full" (whole blocks).
      fused_attention: on TPUs, the kernel of `nn/kernels/attention.py`; XLA's own operations elsewhere, or where False.
      dtype: compute dtype. Angles, the process and the loss are float32 always.
      param_dtype: dtype of the parameters.
    """

    width: int = 768
    blocks: int = 8
    segment: int = 64
    precondition: str = "none"
    heads: int = 12
    coarse_layers: int = 2
    hidden: int = 3328
    recurrent_width: int = 768
    recurrent_layers: int = 2
    recurrence: str = "fused"
    film: str = "frame"
    angle_width: int = 256
    rope: float = 10_000.0
    nearness: float = 0.0
    prompt: bool = False
    chunks: int = 4
    condition_dropout: float = 0.1
    data_std: float = 1.0
    remat: str = "none"
    fused_attention: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if self.segment % 2 or self.segment < 2:
            raise UserError(f"dpd: segment {self.segment} is not even: segments overlap by half")
        if self.heads < 1 or self.width % (2 * self.heads):
            raise UserError(f"dpd: width {self.width} is not a multiple of 2 x {self.heads} heads (rotary pairs)")
        for name, value, known in (
            ("recurrence", self.recurrence, ("associative", "sequential", "fused")),
            ("film", self.film, ("frame", "segment")),
            ("precondition", self.precondition, ("none", "linear")),
            ("remat", self.remat, ("none", "dots", "full")),
        ):
            if value not in known:
                raise UserError(f"dpd: {name} {value!r} is none of {', '.join(known)}")
        if not self.data_std > 0:
            raise UserError(f"dpd: data_std {self.data_std} is not positive")
