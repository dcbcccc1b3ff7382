"""Dual-path diffusion (MeLoDy, arXiv 2305.15719, section 4): semantic tokens to latents of the audio autoencoder.

In the paper's order: angles (process and schedules), conditioning (angle and token embeddings), segments
(half-overlapping segmentation), blocks (coarse and fine path), network, loss (multi-chunk velocity), denoisers (guidance),
sampler. Not the paper's: precondition, a module around the network.
"""

from melody_jax.dpd.config import DPDConfig
from melody_jax.dpd.network import DPD
from melody_jax.dpd.precondition import Preconditioned, model_of

__all__ = ["DPD", "DPDConfig", "Preconditioned", "model_of"]
