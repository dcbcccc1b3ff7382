"""What a user may choose when sampling, checked before any work is done."""

import dataclasses
import math

from melody_jax.dpd.angles import SCHEDULES
from melody_jax.errors import UserError
from melody_jax.lm.decode import Sampling

LONGEST_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """How music is sampled. A bundle may carry other defaults that suit its weights.

    Attributes:
      seconds: length of the music.
      steps: T, diffusion steps.
      guidance: g of classifier-free guidance in the diffusion; 1 for none.
      schedule: step sizes of the diffusion, "linear" (large steps first) or "uniform".
      lm_guidance: the same for the language model; 1 for none.
      temperature: of the language model; 0 always takes the most likely token.
      top_k: language model draws from the k most likely tokens; 0 for all.
      top_p: language model draws from the most likely tokens of this total probability.
      mulan_levels: how many of the MuLan tokens, coarse to fine, condition the language model; 0 for all.
      clip_latents: bound of predicted latents at every step, which lie in [-1, 1]; 0 for none.
      window_seconds: length that the diffusion makes at once, longer music in overlapping windows; 0 for the training
        clip.
      candidates: pieces made for each prompt; the one that MuLan hears nearest to the prompt is kept.
    """

    seconds: float = 10.0
    steps: int = 20
    guidance: float = 2.5
    schedule: str = "linear"
    lm_guidance: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    mulan_levels: int = 0
    clip_latents: float = 1.0
    window_seconds: float = 0.0
    candidates: int = 1

    def __post_init__(self):
        if not 0 < self.seconds <= LONGEST_SECONDS:
            raise UserError(f"seconds must be more than 0 and at most {LONGEST_SECONDS:g}, got {self.seconds:g}")
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, got {self.steps}")
        if not math.isfinite(self.guidance) or self.guidance < 0:
            raise UserError(f"guidance must be a number of at least 0, got {self.guidance:g}")
        if self.schedule not in SCHEDULES:
            raise UserError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if self.mulan_levels < 0:
            raise UserError(f"mulan_levels must be at least 0, got {self.mulan_levels}")
        if not self.clip_latents >= 0:
            raise UserError(f"clip_latents must be at least 0, got {self.clip_latents:g}")
        if not self.window_seconds >= 0:
            raise UserError(f"window_seconds must be at least 0, got {self.window_seconds:g}")
        if self.candidates < 1:
            raise UserError(f"candidates must be at least 1, got {self.candidates}")
        _ = self.sampling  # checks the rest

    @property
    def sampling(self) -> Sampling:
        """The language model's share."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.lm_guidance)
