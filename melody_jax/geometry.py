"""Rates and divisibility: every sample rate, hop and clip length of the system is decided here and nowhere else.

A geometry is part of the configuration and travels with every artifact: parts, tokenised data sets, bundles.
The defaults are the paper's: 24 kHz mono, hop 96 (250 Hz latents of 16 channels), 25 Hz semantic tokens, 10 s clips.
"""

import dataclasses

from melody_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What one second of music is at each level of the system.

    Attributes:
      sample_rate: waveform samples a second (Hz), mono.
      hop: waveform samples per latent frame.
      latent_channels: D, channels of one latent frame.
      token_samples: waveform samples from one moment with semantic tokens to the next.
      clip_seconds: length of a training clip, seconds.
      mulan_tokens: Q, residual-VQ levels of a MuLan embedding, that is MuLan tokens per clip.
      mulan_codes: entries of each MuLan codebook.
      semantic_codes: k-means centres of each semantic level.
      semantic_levels: R, levels of residual k-means; 1 is the publication. A moment of music has R semantic tokens, coarse
        to fine; token n R + r holds level r's code plus r * semantic_codes, so that every level has ids of its own.
    """

    sample_rate: int = 24_000
    hop: int = 96
    latent_channels: int = 16
    token_samples: int = 960
    clip_seconds: float = 10.0
    mulan_tokens: int = 12
    mulan_codes: int = 1024
    semantic_codes: int = 1024
    semantic_levels: int = 1

    def __post_init__(self):
        if self.token_samples % self.hop:
            raise UserError(f"geometry: token_samples {self.token_samples} is not a multiple of hop {self.hop}")
        if self.semantic_levels < 1:
            raise UserError(f"geometry: {self.semantic_levels} semantic levels; there is at least 1")
        samples = self.clip_seconds * self.sample_rate
        if samples != int(samples) or int(samples) % self.token_samples:
            raise UserError(
                f"geometry: a clip of {self.clip_seconds} s at {self.sample_rate} Hz is not a whole number of "
                f"{self.token_samples}-sample tokens"
            )

    @property
    def latent_rate(self) -> float:
        """Latent frames a second (Hz)."""
        return self.sample_rate / self.hop

    @property
    def token_rate(self) -> float:
        """Moments a second that have semantic tokens (Hz)."""
        return self.sample_rate / self.token_samples

    @property
    def frames_per_token(self) -> int:
        """Latent frames per moment with semantic tokens."""
        return self.token_samples // self.hop

    @property
    def clip_samples(self) -> int:
        """T, waveform samples of a training clip."""
        return int(self.clip_seconds * self.sample_rate)

    @property
    def clip_frames(self) -> int:
        """L, latent frames of a training clip."""
        return self.clip_samples // self.hop

    @property
    def clip_tokens(self) -> int:
        """N, moments with semantic tokens in a training clip."""
        return self.clip_samples // self.token_samples

    @property
    def semantic_size(self) -> int:
        """Semantic vocabulary: codes of all levels."""
        return self.semantic_levels * self.semantic_codes

    @property
    def clip_semantic(self) -> int:
        """N R, semantic tokens of a training clip."""
        return self.clip_tokens * self.semantic_levels

    def tokens_in(self, seconds: float) -> int:
        """Moments with semantic tokens that cover `seconds`, rounded up."""
        return -int(-seconds * self.sample_rate // self.token_samples)
