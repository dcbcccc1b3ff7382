"""MuLan's contrastive loss: symmetric InfoNCE with a learned temperature (Huang et al. 2022, eq. 1; Radford et al. 2021)."""

import flax.struct
import jax
import jax.numpy as jnp

from melody_jax.shapes import Array, Float

MAX_LOG_SCALE = 4.6052  # ln 100: CLIP's bound on the inverse temperature, beyond which training turns unstable


class Contrast(flax.struct.PyTreeNode):
    """The loss (mean of both directions, nats) and the share of texts and of clips whose own partner is the nearest."""

    loss: Float[Array, ""]
    text_to_music: Float[Array, ""]
    music_to_text: Float[Array, ""]


def contrast(music: Float[Array, "B E"], text: Float[Array, "B E"], log_scale: Float[Array, ""]) -> Contrast:
    """Symmetric cross entropy of each embedding against all partners in the global batch.

    Under jit the arrays are global: with the batch sharded over devices the B x B similarities are still those of the
    whole batch, and XLA gathers what it needs.

    Args:
      music: unit-norm embeddings.
      text: unit-norm embeddings; row i belongs to row i of `music`.
      log_scale: logarithm of the inverse temperature.
    """
    # A float32 island: the scale of up to 100 would turn bfloat16's rounding of a cosine into whole nats.
    music, text = music.astype(jnp.float32), text.astype(jnp.float32)
    scale = jnp.exp(jnp.minimum(log_scale.astype(jnp.float32), MAX_LOG_SCALE))
    logits = jnp.einsum("be,ce->bc", text, music, precision="highest") * scale
    own = jnp.arange(logits.shape[0])
    by_text = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=1)))
    by_music = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=0)))
    return Contrast(
        loss=(by_text + by_music) / 2,
        text_to_music=jnp.mean((jnp.argmax(logits, axis=1) == own).astype(jnp.float32)),
        music_to_text=jnp.mean((jnp.argmax(logits, axis=0) == own).astype(jnp.float32)),
    )
