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
    controls: Int[Array, "B controls"] | None = None,
) -> Float[Array, " B"]:
    """Cross entropy of each clip (nats per semantic token) given MuLan codes and controls, none where `keep` is False.

    Clips longer than a window are cut into as few windows as cover them, evenly spaced.

    Args:
      window: moments of `levels` tokens in one sequence.
    """
    starts = window_starts(semantic.shape[1] // levels, window)
    windows = jnp.stack([semantic[:, levels * at : levels * (at + window)] for at in starts], axis=1)
    condition = jnp.repeat(model.vocabulary.condition(mulan, keep, controls), len(starts), axis=0)
    condition = model.vocabulary.later(condition, jnp.tile(starts, semantic.shape[0]))
    losses = _losses_after(model, weights, condition, windows.reshape(-1, window * levels))
    return jnp.mean(losses.reshape(semantic.shape[0], -1), axis=1)


def sequence_losses(
    model: SemanticLM,
    weights: Any,
    mulan: Int[Array, "B Q"],
    semantic: Int[Array, "B N"],
    keep: Bool[Array, " B"] | None = None,
    controls: Int[Array, "B controls"] | None = None,
) -> Float[Array, "B N"]:
    """Cross entropy (nats) of every semantic token of a sequence, given those before it; see `clip_losses`."""
    return _losses_after(model, weights, model.vocabulary.condition(mulan, keep, controls), semantic)


def _losses_after(
    model: SemanticLM, weights: Any, condition: Int[Array, "B prefix"], semantic: Int[Array, "B N"]
) -> Float[Array, "B N"]:
    ids = model.vocabulary.semantic_ids(semantic).astype(condition.dtype)
    tokens = jnp.concatenate([condition, ids], axis=1)
    losses = token_losses(model.apply({"params": weights}, tokens[:, :-1]), tokens[:, 1:])
    return losses[:, model.vocabulary.prefix - 1 :]


def window_starts(moments: int, window: int) -> Int[np.ndarray, " windows"]:
    """Where the windows begin that cover a clip."""
    return np.linspace(0, moments - window, -(-moments // window)).round().astype(np.int32)
