"""The Gumbel-softmax product quantiser of wav2vec 2.0 (Baevski et al., 2020, section 2 and equation 1)."""

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from melody_jax.nn.dense import Dense, matmul
from melody_jax.semantic.config import QuantizerConfig
from melody_jax.shapes import Array, Float, Int


class Quantized(flax.struct.PyTreeNode):
    """What the quantiser makes of frames.

    Attributes:
      vectors: [B, N, width], the chosen entries, concatenated over the groups.
      codes: [B, N, G], which they are.
      probabilities: [B, N, G, C], softmax of the logits without noise: what the diversity loss looks at.
    """

    vectors: Float[Array, "B N H"]
    codes: Int[Array, "B N G"]
    probabilities: Float[Array, "B N G C"]


def temperature(config: QuantizerConfig, step: Int[Array, ""]) -> Float[Array, ""]:
    """max(start * decay^step, end)."""
    decay = jnp.float32(config.temperature_decay) ** step.astype(jnp.float32)
    return jnp.maximum(config.temperature_start * decay, config.temperature_end)


def straight_through(
    logits: Float[Array, "*b C"], temperature: Float[Array, ""], noise: Float[Array, "*b C"]
) -> Float[Array, "*b C"]:
    """One-hot of argmax(logits + noise), with the gradient of softmax((logits + noise) / temperature)."""
    noisy = logits + noise
    soft = jax.nn.softmax(noisy / temperature, axis=-1)
    hard = jax.nn.one_hot(jnp.argmax(noisy, axis=-1), logits.shape[-1], dtype=soft.dtype)
    return jax.lax.stop_gradient(hard - soft) + soft


class GumbelQuantizer(nn.Module):
    """Frames to entries of G codebooks. Logits and their softmax in float32: Gumbel noise has long tails."""

    config: QuantizerConfig
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N I"], temperature: Float[Array, ""] | None = None, key: Array | None = None
    ) -> Quantized:
        """Draws entries with Gumbel noise given `temperature` and `key` (training), else takes the likeliest."""
        cfg = self.config
        groups, entries, width = cfg.groups, cfg.entries, cfg.width // cfg.groups
        # Unit-variance weights on inputs of unit variance, as published: logits spread widely from the first step.
        logits = Dense(
            groups * entries, ("embed", "codes"), dtype=self.dtype, param_dtype=self.param_dtype,
            kernel_init=nn.initializers.normal(1.0), name="logits",
        )(x)  # fmt: skip
        logits = logits.astype(jnp.float32).reshape(*x.shape[:2], groups, entries)
        init = nn.with_logical_partitioning(nn.initializers.uniform(1.0), (None, "codes", "embed"))
        table = self.param("codebooks", init, (groups, entries, width), jnp.dtype(self.param_dtype))
        if temperature is None or key is None:
            chosen = jax.nn.one_hot(jnp.argmax(logits, axis=-1), entries, dtype=jnp.float32)
        else:
            chosen = straight_through(logits, temperature, jax.random.gumbel(key, logits.shape, jnp.float32))
        picked = chosen.astype(self.dtype)
        vectors = jnp.concatenate([matmul(picked[:, :, g], table[g]) for g in range(groups)], axis=-1)
        codes = jnp.argmax(chosen, axis=-1).astype(jnp.int32)
        return Quantized(vectors, codes, jax.nn.softmax(logits, axis=-1))
