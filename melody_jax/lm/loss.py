"""Next-token cross entropy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.lm.network import SemanticLM
from melody_jax.shapes import Array, Bool, Float, Int


def token_losses(logits: Float[Array, "B W V"], targets: Int[Array, "B W"]) -> Float[Array, "B W"]:
    """-log softmax(logits)[target] per position, in nats; float32 because a softmax over thousands needs the digits."""
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_probability, targets[..., None], axis=-1)[..., 0]


def weighted_mean(losses: Float[Array, "B W"], weights: Float[Array, "#B W"]) -> Float[Array, ""]:
    """Mean of `losses` under `weights`; positions of weight 0 do not count."""
    weights = jnp.broadcast_to(weights, losses.shape)
    return jnp.sum(losses * weights) / jnp.maximum(jnp.sum(weights), 1e-9)


def clip_losses(
    model: SemanticLM,
    weights: Any,
    mulan: Int[Array, "B Q"],
    semantic: Int[Array, "B N"],
    window: int,
    levels: int,
    keep: Bool[Array, " B"] | None = None,
    controls: Int[Array, "B K"] | None = None,
) -> Float[Array, " B"]:
    """Cross entropy of each clip (nats per semantic token) given MuLan codes and controls, none where `keep` is False.

    Clips longer than a window are cut into as few windows as cover them, evenly spaced.

    Args:
      window: moments of `levels` tokens in one sequence.
    """
    windows = _windows(semantic, window, levels)
    repeats = windows.shape[0] // semantic.shape[0]
    keep = None if keep is None else jnp.repeat(keep, repeats)
    controls = None if controls is None else jnp.repeat(controls, repeats, axis=0)
    losses = sequence_losses(model, weights, jnp.repeat(mulan, repeats, axis=0), windows, keep, controls)
    return jnp.mean(losses.reshape(semantic.shape[0], -1), axis=1)


def sequence_losses(
    model: SemanticLM,
    weights: Any,
    mulan: Int[Array, "B Q"],
    semantic: Int[Array, "B N"],
    keep: Bool[Array, " B"] | None = None,
    controls: Int[Array, "B K"] | None = None,
) -> Float[Array, "B N"]:
    """Cross entropy (nats) of every semantic token of a sequence, given those before it; see `clip_losses`."""
    tokens = model.vocabulary.sequence(mulan, semantic, keep, controls)
    losses = token_losses(model.apply({"params": weights}, tokens[:, :-1]), tokens[:, 1:])
    return losses[:, model.vocabulary.prefix - 1 :]


def _windows(semantic: Int[Array, "B N"], window: int, levels: int) -> Int[Array, "R W"]:
    """The windows that cover each clip, those of one clip beside one another."""
    moments, width = semantic.shape[1] // levels, window * levels
    starts = levels * np.linspace(0, moments - window, -(-moments // window)).round().astype(int)
    windows = jnp.stack([semantic[:, start : start + width] for start in starts], axis=1)
    return windows.reshape(-1, width)
