"""The multi-chunk velocity loss, and the velocity error over a fixed grid of angles that evaluation reports."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.dpd import angles as process
from melody_jax.dpd.denoiser import Denoiser
from melody_jax.shapes import Array, Float, PRNGKeyArray


def velocity_loss(
    denoise: Denoiser, clean: Float[Array, "B L D"], key: PRNGKeyArray, chunks: int, dropout: float
) -> Float[Array, ""]:
    """Mean squared error of the velocity; each of the M chunks of each clip has its own delta_m ~ U[0, pi/2].

    Args:
      denoise: the network with its weights and tokens bound.
      clean: z, normalised latents.
      key: of noise, angles and dropped conditions.
      chunks: M.
      dropout: probability that a clip's condition is dropped.
    """
    batch, frames, _ = clean.shape
    noise_key, angle_key, keep_key = jax.random.split(key, 3)
    noise = jax.random.normal(noise_key, clean.shape, jnp.float32)
    angles = process.sample_angles(angle_key, batch, frames, chunks)
    keep = jax.random.uniform(keep_key, (batch,)) >= dropout
    predicted = denoise(process.diffuse(clean, noise, angles), angles, keep)
    return jnp.mean(jnp.square(predicted - process.velocity(clean, noise, angles)))


def angle_grid(points: int = 8) -> Float[np.ndarray, " angles"]:
    """The middles of `points` equal parts of (0, pi/2)."""
    return (np.arange(points) + 0.5) * math.pi / (2 * points)


def grid_errors(
    denoise: Denoiser, clean: Float[Array, "B L D"], key: PRNGKeyArray, grid: Float[np.ndarray, " angles"]
) -> Float[Array, " angles"]:
    """Mean squared velocity error at every angle of the grid, one angle for whole clips; `key` fixes the noise."""

    def error(position_and_angle):
        position, angle = position_and_angle
        noise = jax.random.normal(jax.random.fold_in(key, position), clean.shape, jnp.float32)
        angles = jnp.full(clean.shape[:2], angle)
        predicted = denoise(process.diffuse(clean, noise, angles), angles)
        return jnp.mean(jnp.square(predicted - process.velocity(clean, noise, angles)))

    return jax.lax.map(error, (jnp.arange(len(grid)), jnp.asarray(grid, jnp.float32)))
