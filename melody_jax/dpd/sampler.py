"""DDIM-style sampling along the angles, for any denoiser; continuation and inpainting through known frames."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.dpd import angles as process
from melody_jax.dpd.config import DPDConfig
from melody_jax.dpd.guidance import ConditionalDenoiser, Denoiser, guide_batched
from melody_jax.shapes import Array, Bool, Float, Int


def sample_tokens(
    network: ConditionalDenoiser,
    config: DPDConfig,
    tokens: Int[Array, "B N"],
    frames_per_token: int,
    noise: Float[Array, "B L D"],
    steps: Float[np.ndarray, "T"],
    scale: float,
    known: Float[Array, "B L D"] | None = None,
    mask: Bool[Array, "#B L"] | None = None,
    clip: float | None = None,
) -> Float[Array, "B L D"]:
    """Latents of semantic tokens: `sample` from the guided network, its patches shifted from step to step.

    Args:
      network: with its weights.
      config: the network's.
      tokens: L = N frames_per_token.
      noise, steps, known, mask, clip: as of `sample`.
      scale: g of classifier-free guidance; 1 for none.
    """

    def guided(tokens: Array) -> Denoiser:
        return guide_batched(network, tokens, scale)

    shifts = range(config.patch // frames_per_token)  # in tokens; none where a patch is shorter than one
    denoise = shifted(guided, tokens, frames_per_token) if shifts else guided(tokens)
    return sample(denoise, noise, steps, known, mask, clip, config.data_std, shifts)


def shifted(
    guided: Callable[[Array], Denoiser], tokens: Int[Array, "B N"], frames_per_token: int
) -> Callable[[Array, Array, Array], Array]:
    """A denoiser (noisy, angles, shift) whose clip begins `shift` tokens later, what comes before being its end.

    A network of patches expects less of two frames that a boundary parts than of two in one patch. With another shift in
    every step of the sampler the boundaries move, and no two frames stay apart.

    Args:
      guided: a denoiser for these tokens.
      tokens: of all frames, L = N times frames_per_token.
    """

    def denoise(noisy: Array, angles: Array, shift: Array) -> Array:
        frames = shift * frames_per_token
        later = (jnp.roll(noisy, -frames, axis=1), jnp.roll(angles, -frames, axis=1))
        return jnp.roll(guided(jnp.roll(tokens, -shift, axis=1))(*later), frames, axis=1)

    return denoise


def sample(
    denoise: Callable[..., Array],
    noise: Float[Array, "B L D"],
    steps: Float[np.ndarray, "T"],
    known: Float[Array, "B L D"] | None = None,
    mask: Bool[Array, "#B L"] | None = None,
    clip: float | None = None,
    data_std: float = 1.0,
    shifts: Sequence[int] = (),
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
      clip: bound of |z| put on every prediction of the clean latents, 1.0 for latents in [-1, 1]; None for no bound.
      data_std: the scale that the denoiser was trained with (`DPDConfig.data_std`).
      shifts: if given, `denoise` gets one of them in turn as its third argument (see `shifted`).

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
        angle, omega, shift = inputs
        z = jnp.where(fixed[..., None], known / data_std, z)
        deltas = jnp.where(fixed, 0.0, angle)
        v = (denoise(z, deltas, shift) if shifts else denoise(z, deltas)).astype(jnp.float32)
        if clip is not None:
            bound = clip / data_std
            clean = jnp.clip(process.clean_from_velocity(z, v, deltas), -bound, bound)
            v = process.velocity_from_clean(z, clean, deltas)
        return process.ddim_step(z, v, jnp.full((1, 1), omega)), None

    turns = np.resize(np.asarray(shifts or (0,), np.int32), omegas.shape)
    inputs = (jnp.asarray(remaining, jnp.float32), jnp.asarray(omegas, jnp.float32), jnp.asarray(turns))
    z, _ = jax.lax.scan(step, noise, inputs)
    return jnp.where(fixed[..., None], known, z * data_std)
