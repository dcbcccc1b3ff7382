"""Classifier-free guidance (Ho and Salimans, 2022): denoisers in, a denoiser out.

    v = g v(c) + (1 - g) v(null)

g = 1 is the conditional denoiser, g = 0 the unconditional one, g = 2.5 the paper's choice.
"""

from collections.abc import Callable

import jax.numpy as jnp

from melody_jax.shapes import Array, Int

Denoiser = Callable[[Array, Array], Array]
"""(noisy [B, L, D], angles [B, L]) -> velocity [B, L, D]."""


ConditionalDenoiser = Callable[..., Array]
"""(noisy [B, L, D], angles [B, L], tokens [B, N], keep Bool [B] or nothing) -> velocity: `DPD.apply`, weights bound."""


def mix(conditional: Array, unconditional: Array, scale: float) -> Array:
    """g v(c) + (1 - g) v(null)."""
    return scale * conditional + (1 - scale) * unconditional


def guide(conditional: Denoiser, unconditional: Denoiser, scale: float) -> Denoiser:
    """Guidance between any two denoisers, evaluated one after the other; at g = 1 only the conditional one runs."""
    if scale == 1:
        return conditional

    def denoise(noisy: Array, angles: Array) -> Array:
        return mix(conditional(noisy, angles), unconditional(noisy, angles), scale)

    return denoise


def guide_batched(network: ConditionalDenoiser, tokens: Int[Array, "B N"], scale: float) -> Denoiser:
    """Guidance with both evaluations in one call of twice the batch: one pass over the weights per step.

    At g = 1 the call is the conditional one alone.
    """
    if scale == 1:
        return lambda noisy, angles: network(noisy, angles, tokens)

    def denoise(noisy: Array, angles: Array) -> Array:
        keep = jnp.arange(2 * tokens.shape[0]) < tokens.shape[0]
        twice = [jnp.concatenate([x, x]) for x in (noisy, angles, tokens)]
        conditional, unconditional = jnp.split(network(*twice, keep), 2)
        return mix(conditional, unconditional, scale)

    return denoise
