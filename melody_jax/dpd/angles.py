"""The angle form of continuous-time diffusion: process, DDIM step, schedules, angles of multi-chunk training.

With z the clean latents, epsilon white noise and delta in [0, pi/2] the angle (0 = clean, pi/2 = noise):

    z_delta = cos(delta) z + sin(delta) epsilon              the process
    v_delta = cos(delta) epsilon - sin(delta) z              the velocity, which the network predicts
    z = cos(delta) z_delta - sin(delta) v_delta              epsilon = sin(delta) z_delta + cos(delta) v_delta
    z_{delta - omega} = cos(omega) z_delta - sin(omega) v    one DDIM step of size omega

z, epsilon and v turn into each other here and nowhere else. Angles are per frame, [B, L], and float32: in bfloat16 the
cosine of a small angle is 1.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.errors import UserError
from melody_jax.shapes import Array, Float, PRNGKeyArray, Shaped

SCHEDULES = ("linear", "uniform")


def _cos_sin(angles: Array) -> tuple[Array, Array]:
    return jnp.cos(angles)[..., None], jnp.sin(angles)[..., None]


def diffuse(
    clean: Float[Array, "B L D"], noise: Float[Array, "B L D"], angles: Float[Array, "#B #L"]
) -> Float[Array, "B L D"]:
    """z_delta of clean latents z and white noise epsilon."""
    cos, sin = _cos_sin(angles)
    return cos * clean + sin * noise


def velocity(
    clean: Float[Array, "B L D"], noise: Float[Array, "B L D"], angles: Float[Array, "#B #L"]
) -> Float[Array, "B L D"]:
    """v_delta of clean latents z and white noise epsilon: the derivative of z_delta by delta."""
    cos, sin = _cos_sin(angles)
    return cos * noise - sin * clean


def clean_from_velocity(
    noisy: Float[Array, "B L D"], v: Float[Array, "B L D"], angles: Float[Array, "#B #L"]
) -> Float[Array, "B L D"]:
    """z of z_delta and v_delta."""
    cos, sin = _cos_sin(angles)
    return cos * noisy - sin * v


def velocity_from_clean(
    noisy: Float[Array, "B L D"], clean: Float[Array, "B L D"], angles: Float[Array, "#B #L"]
) -> Float[Array, "B L D"]:
    """v_delta of z_delta and a prediction of z; 0 where delta = 0, where z_delta says nothing of epsilon."""
    cos, sin = _cos_sin(angles)
    known = sin == 0
    return jnp.where(known, 0.0, (cos * noisy - clean) / jnp.where(known, 1.0, sin))


def ddim_step(
    noisy: Float[Array, "B L D"], v: Float[Array, "B L D"], omega: Float[Array, "#B #L"]
) -> Float[Array, "B L D"]:
    """z_{delta - omega} of z_delta and v_delta."""
    cos, sin = _cos_sin(omega)
    return cos * noisy - sin * v


def schedule(name: str, steps: int) -> Float[np.ndarray, " steps"]:
    """Step sizes omega_T, ..., omega_1 in the order of sampling; they sum to pi/2.

    "uniform": omega_t = pi / 2T. "linear", the paper's, large steps first: omega_t = pi / 6T + 2 pi t / (3 T (T + 1)).

    Raises:
      UserError: the schedule is unknown or there is no step.
    """
    if steps < 1:
        raise UserError(f"a diffusion schedule needs at least one step, got {steps}")
    if name not in SCHEDULES:
        raise UserError(f"unknown diffusion schedule {name!r}, expected one of {', '.join(SCHEDULES)}")
    t = np.arange(steps, 0, -1, dtype=np.float64)
    if name == "uniform":
        return np.full(steps, math.pi / (2 * steps))
    return math.pi / (6 * steps) + 2 * math.pi * t / (3 * steps * (steps + 1))


def chunk_index(frames: int, chunks: int) -> Shaped[np.ndarray, "L"]:
    """The chunk 0 .. M-1 of every frame: chunk m ends where L_m = floor(m L / M) frames have passed."""
    ends = np.arange(1, chunks + 1) * frames // chunks
    return np.searchsorted(ends, np.arange(frames), side="right")


def sample_angles(key: PRNGKeyArray, batch: int, frames: int, chunks: int) -> Float[Array, "B L"]:
    """Angles of multi-chunk training: delta_m ~ U[0, pi/2] for each of the M chunks of each clip, one per frame."""
    per_chunk = jax.random.uniform(key, (batch, chunks), jnp.float32, 0.0, math.pi / 2)
    return per_chunk[:, chunk_index(frames, chunks)]
