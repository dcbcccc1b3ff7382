"""Next-token cross entropy."""

import jax
import jax.numpy as jnp

from melody_jax.shapes import Array, Float, Int


def token_losses(logits: Float[Array, "B W V"], targets: Int[Array, "B W"]) -> Float[Array, "B W"]:
    """-log softmax(logits)[target] per position, in nats; float32 because a softmax over thousands needs the digits."""
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_probability, targets[..., None], axis=-1)[..., 0]


def weighted_mean(losses: Float[Array, "B W"], weights: Float[Array, "#B W"]) -> Float[Array, ""]:
    """Mean of `losses` under `weights`; positions of weight 0 do not count."""
    weights = jnp.broadcast_to(weights, losses.shape)
    return jnp.sum(losses * weights) / jnp.maximum(jnp.sum(weights), 1e-9)
