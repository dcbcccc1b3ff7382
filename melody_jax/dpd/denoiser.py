"""Denoisers, and what makes one of another: binding, dropped conditions, guidance, bounds.

Losses and the sampler know denoisers only, of one signature: no configuration, no tokens.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from melody_jax.dpd import angles as process
from melody_jax.shapes import Array, Bool, Float, Int

Denoiser = Callable[..., Array]
"""(noisy [B, L, D], angles [B, L], keep Bool [B] = None) -> velocity [B, L, D]; where `keep` is False the condition is
dropped, None keeps all."""


def bind(
    network: Callable[..., Any], tokens: Int[Array, "B W"], condition: Int[Array, "B prefix"] | None = None
) -> Denoiser:
    """The denoiser under these tokens.

    Args:
      network: (noisy, angles, tokens, keep, condition) -> velocity: `DPD.apply`, weights bound.
      tokens: of B clips; given n B rows the denoiser repeats them n times.
      condition: see `DPD`; repeated like the tokens.
    """

    def denoise(noisy: Array, angles: Array, keep: Array | None = None) -> Array:
        times = noisy.shape[0] // tokens.shape[0]

        def repeated(rows: Array | None) -> Array | None:
            return rows if rows is None or times == 1 else jnp.concatenate([rows] * times)

        return network(noisy, angles, repeated(tokens), keep, repeated(condition))

    return denoise


def unconditional(denoise: Denoiser) -> Denoiser:
    """The denoiser with every condition dropped."""
    return lambda noisy, angles, keep=None: denoise(noisy, angles, jnp.zeros(noisy.shape[0], bool))


def guide(denoise: Denoiser, scale: float) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans, 2022): v = g v(c) + (1 - g) v(null).

    g = 1 is the conditional denoiser alone, g = 0 the unconditional one, g = 2.5 the paper's choice. Both are evaluated in
    one call of twice the batch: one pass over the weights per step.
    """
    if scale == 1:
        return denoise

    def guided(noisy: Array, angles: Array, keep: Bool[Array, "B"] | None = None) -> Array:
        kept = jnp.ones(noisy.shape[0], bool) if keep is None else keep
        keep = jnp.concatenate([kept, jnp.zeros_like(kept)])
        noisy, angles = (jnp.concatenate([x, x]) for x in (noisy, angles))
        conditional, dropped = jnp.split(denoise(noisy, angles, keep), 2)
        return scale * conditional + (1 - scale) * dropped

    return guided


def bounded(denoise: Denoiser, bound: float) -> Denoiser:
    """The denoiser whose predictions of the clean latents lie in [-bound, bound], in the units of its input."""

    def denoise_within(noisy: Float[Array, "B L D"], angles: Array, keep: Array | None = None) -> Array:
        velocity = denoise(noisy, angles, keep).astype(jnp.float32)
        clean = jnp.clip(process.clean_from_velocity(noisy, velocity, angles), -bound, bound)
        return process.velocity_from_clean(noisy, clean, angles)

    return denoise_within
