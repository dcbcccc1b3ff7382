"""The best linear predictor of the velocity that sees one channel of one frame: the baseline a network has to beat.

For a channel with variance s^2 (mean removed) and unit noise, z_delta = cos z + sin eps and v = cos eps - sin z have

    Var(z_delta) = cos^2 s^2 + sin^2        Var(v) = cos^2 + sin^2 s^2        Cov(v, z_delta) = sin cos (1 - s^2)

The least-squares predictor is v = (Cov / Var(z_delta)) z_delta + constant and its error

    Var(v) - Cov^2 / Var(z_delta) = [(cos^2 + sin^2 s^2)(cos^2 s^2 + sin^2) - sin^2 cos^2 (1 - s^2)^2] / Var(z_delta)
                                  = s^2 / (cos^2 s^2 + sin^2)

since the bracket is s^2 (cos^4 + sin^4) + sin^2 cos^2 (1 + s^4 - 1 + 2 s^2 - s^4) = s^2 (cos^2 + sin^2)^2.
For s = 1 the error is 1 at every angle.
"""

import jax.numpy as jnp

from melody_jax.shapes import Array, Float


def velocity_error(variance: Float[Array, "D"], angles: Float[Array, " angles"]) -> Float[Array, "angles D"]:
    """Mean squared velocity error of the Wiener predictor, for every angle and channel.

    Args:
      variance: of each latent channel, in the units that the diffusion runs in (latents / data_std).
      angles: delta, in (0, pi/2].
    """
    cos2, sin2 = jnp.square(jnp.cos(angles))[:, None], jnp.square(jnp.sin(angles))[:, None]
    return variance[None] / (cos2 * variance[None] + sin2)


def batch_error(latents: Float[Array, "B L D"], angles: Float[Array, " angles"]) -> Float[Array, ""]:
    """The error averaged over angles and channels, with the variances of these very latents: a strict baseline."""
    variance = jnp.var(latents.astype(jnp.float32), axis=(0, 1))
    return jnp.mean(velocity_error(variance, angles))
