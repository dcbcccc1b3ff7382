"""DDIM-style sampling along the angles, for any denoiser; continuation and inpainting through known frames."""

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.dpd import angles as process
from melody_jax.dpd.denoiser import Denoiser
from melody_jax.shapes import Array, Bool, Float


def sample(
    denoise: Denoiser,
    noise: Float[Array, "B L D"],
    steps: Float[np.ndarray, " steps"],
    known: Float[Array, "B L D"] | None = None,
    mask: Bool[Array, "#B L"] | None = None,
    data_std: float = 1.0,
) -> Float[Array, "B L D"]:
    """Latents from noise: delta runs from pi/2 to 0 in the steps of the schedule, z <- cos(omega) z - sin(omega) v.

    Known frames enter every step as what they are, clean latents at delta = 0: the multi-chunk training has shown the
    network such mixtures, so continuation (mask = the old frames) and inpainting (any mask) need no other model.

    Args:
      denoise: (noisy, angles [B, L]) -> velocity, in units of normalised latents z / data_std.
      noise: white noise of unit variance.
      steps: step sizes omega_T .. omega_1 that sum to pi/2 (see `angles.schedule`).
      known: latents of the known frames (other frames are not read).
      mask: True where a frame is known; None for none.
      data_std: the scale that the denoiser was trained with (`DPDConfig.data_std`).

    Returns:
      Latents in their own units; the known frames come back bit for bit.
    """
    batch, frames, _ = noise.shape
    omegas = np.asarray(steps, np.float64)
    remaining = np.cumsum(omegas[::-1])[::-1]  # the angle before each step: exactly the sum of the steps to come
    noise = noise.astype(jnp.float32)
    if known is None or mask is None:
        known, mask = jnp.zeros_like(noise), jnp.zeros((1, frames), bool)
    known = known.astype(jnp.float32)
    fixed = jnp.broadcast_to(mask, (batch, frames))

    def step(z, inputs):
        angle, omega = inputs
        z = jnp.where(fixed[..., None], known / data_std, z)
        deltas = jnp.where(fixed, 0.0, angle)
        v = denoise(z, deltas).astype(jnp.float32)
        return process.ddim_step(z, v, jnp.full((1, 1), omega)), None

    inputs = (jnp.asarray(remaining, jnp.float32), jnp.asarray(omegas, jnp.float32))
    z, _ = jax.lax.scan(step, noise, inputs)
    return jnp.where(fixed[..., None], known, z * data_std)
