"""The two losses of wav2vec 2.0's pre-training (Baevski et al., 2020, section 3.2). Float32: differences of cosines."""

import jax
import jax.numpy as jnp

from melody_jax.shapes import Array, Bool, Float, Int


def _unit(x: Array) -> Array:
    wide = x.astype(jnp.float32)
    return wide / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(wide), axis=-1, keepdims=True)), 1e-8)


def contrastive_loss(
    context: Float[Array, "B N projection"],
    targets: Float[Array, "B N projection"],
    codes: Int[Array, "B N G"],
    mask: Bool[Array, "B N"],
    negatives: Int[Array, "B N negatives"],
    pool: Int[Array, " pool"] | None = None,
    kappa: float | Float[Array, ""] = 0.1,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Equation 3, -log exp(sim(c_t, q_t) / kappa) / sum_q~ exp(sim(c_t, q~) / kappa), mean over the masked frames.

    Distractors with the codes of the right answer are the right answer, and left out.

    Args:
      context: predictions c.
      targets: quantised frames q, projected.
      codes: their codes.
      mask: the frames that were hidden.
      negatives: frames of the same clip, for each frame.
      pool: frames of the whole batch (indices into B * N), for every frame; none if None.
      kappa: temperature.

    Returns:
      The loss and the accuracy: how often the right answer is the most similar one. Scalars.
    """
    context, targets = _unit(context), _unit(targets)
    similarity = jnp.matmul(context, targets.swapaxes(1, 2))
    same = jnp.all(codes[:, :, None] == codes[:, None], axis=-1)
    right = jnp.diagonal(similarity, axis1=1, axis2=2)[..., None]
    wrong = jnp.take_along_axis(similarity, negatives, axis=2)
    void = jnp.take_along_axis(same, negatives, axis=2)
    if pool is not None:
        chosen = targets.reshape(-1, targets.shape[-1])[pool]
        chosen_codes = codes.reshape(-1, codes.shape[-1])[pool]
        wrong = jnp.concatenate([wrong, jnp.matmul(context, chosen.T)], axis=-1)
        shared = jnp.all(codes[:, :, None] == chosen_codes[None, None], axis=-1)
        void = jnp.concatenate([void, shared], axis=-1)
    wrong = jnp.where(void, -jnp.inf, wrong)
    logits = jnp.concatenate([right, wrong], axis=-1) / kappa
    weight = mask.astype(jnp.float32)
    count = jnp.maximum(jnp.sum(weight), 1.0)
    loss = jax.nn.logsumexp(logits, axis=-1) - logits[..., 0]
    hit = (right[..., 0] > jnp.max(wrong, axis=-1)).astype(jnp.float32)
    return jnp.sum(loss * weight) / count, jnp.sum(hit * weight) / count


def perplexity(probabilities: Float[Array, "B N G C"], mask: Bool[Array, "B N"]) -> Float[Array, ""]:
    """Sum over the groups of exp(entropy of the mean distribution of the masked frames): 1 to C for each group."""
    weight = mask.astype(jnp.float32)[..., None, None]
    mean = jnp.sum(probabilities * weight, axis=(0, 1)) / jnp.maximum(jnp.sum(weight), 1.0)
    return jnp.sum(jnp.exp(-jnp.sum(mean * jnp.log(mean + 1e-7), axis=-1)))


def diversity_loss(probabilities: Float[Array, "B N G C"], mask: Bool[Array, "B N"]) -> Float[Array, ""]:
    """(G C - perplexity) / (G C): 0 when every entry of every group is used alike (equation 4, as implemented)."""
    total = probabilities.shape[-2] * probabilities.shape[-1]
    return (total - perplexity(probabilities, mask)) / total
